"""What the values of a config stand for: its tasks."""

from ml_collections import ConfigDict

from clickflax.tasks.find import find_tasks
from clickflax.tasks.task import LabelSettings, Task


def tasks_of(config: ConfigDict) -> dict[str, Task]:
    """The tasks of `config.tasks` by name, in this order."""
    settings = LabelSettings(**{name: config.label[name] for name in LabelSettings._fields})
    return find_tasks(tuple(config.tasks), settings)
