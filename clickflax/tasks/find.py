"""Tasks by the names that `config.tasks` has for them."""

from clickflax.tasks import cloze, labels, next_basket, next_event
from clickflax.tasks.task import TASKS, LabelSettings, Task

BUILT_IN = (cloze, next_event, next_basket, labels)  # each registers its tasks


def find_task(name: str, settings: LabelSettings) -> Task:
    """The task of a name; a family such as `next_*` has one for every variable.

    Raises ValueError, with the names there are, if no task has the name.
    """
    if name in TASKS and not name.endswith("*"):
        return TASKS[name](name, settings)
    for family, make in TASKS.items():
        prefix = family.removesuffix("*")
        if family != prefix and name.startswith(prefix) and name != prefix and name != family:
            return make(name, settings)
    raise ValueError(
        f"config.tasks names {name!r}; tasks are {', '.join(sorted(TASKS))}, with a variable such "
        "as item in the place of *."
    )


def find_tasks(names: tuple[str, ...], settings: LabelSettings) -> dict[str, Task]:
    """The tasks of `config.tasks`. Raises ValueError if none or one is named twice."""
    if not names or len(set(names)) < len(names):
        raise ValueError(f"config.tasks={tuple(names)!r} must name one task or several, each once.")
    return {name: find_task(name, settings) for name in names}
