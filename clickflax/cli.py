"""`clickflax VERB ...`: a table of verbs, each imported when it is called."""

import difflib
import importlib
import os
import signal
import sys
from collections.abc import Sequence

from clickflax import __version__
from clickflax.runtime.compiled import enable_compilation_cache
from clickflax.runtime.errors import user_message
from clickflax.runtime.extensions import load_extension, take_extensions
from clickflax.runtime.signals import Stopped, leave, name_of, received, watch_signals
from clickflax.runtime.terminal import say

VERBS = {
    "prepare": ("clickflax.preparation.main", "turn a raw log into a prepared data set"),
    "simulate": (
        "clickflax.simulation.main",
        "make a data set of a shop whose truth is known",
    ),
    "train": ("clickflax.training.loop", "train a model, or resume its training"),
    "evaluate": ("clickflax.evaluation.main", "measure a run on its validation or test split"),
    "baselines": (
        "clickflax.baselines.compare",
        "run popularity, kNN, EASE, BPR, trees on a config",
    ),
    "recommend": ("clickflax.inference.recommend", "recommend the next items for histories"),
    "study": ("clickflax.study.main", "train and evaluate many runs, and compare them"),
    "report": ("clickflax.study.report", "draw an HTML page that compares runs"),
}
COMPILING = ("train", "evaluate", "recommend", "study")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit status.

    It is 0, 1 for an error, 2 for wrong usage, and after a signal 129 (SIGHUP), 130 (Ctrl-C) or 143
    (SIGTERM).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = arguments[0] if arguments else None
    if verb in ("--help", "-h", "help"):
        say(_help())
        return 0
    if verb == "--version":
        say(f"clickflax {__version__}")
        return 0
    if verb not in VERBS:
        say(_unknown(verb), error=True)
        return 2
    with watch_signals(f"clickflax {verb}"):
        return _run(verb, arguments[1:])


def _run(verb: str, arguments: list[str]) -> int:
    """Runs a verb; an error that its user can mend is one line, not a traceback."""
    try:
        if verb in COMPILING:
            enable_compilation_cache()
        extensions, arguments = take_extensions(arguments)
        for path in extensions:
            load_extension(path)
        status = importlib.import_module(VERBS[verb][0]).main(arguments)
        sys.stdout.flush()
    except Stopped as reason:
        say(f"clickflax {verb}: {reason}", error=True)
        return leave(reason.number)
    except KeyboardInterrupt:
        say(f"clickflax {verb}: interrupted", error=True)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of a pipe, `head` say, has gone; Python would complain again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
        if number := received():  # a library has made another exception of Stopped
            say(f"clickflax {verb}: ended by {name_of(number)}", error=True)
            return leave(number)
        if isinstance(error, RuntimeError):
            raise
        if os.environ.get("CLICKFLAX_TRACEBACK", "0") not in ("", "0"):
            raise
        say(f"clickflax {verb}: error: {user_message(error)}", error=True)
        say("(Set CLICKFLAX_TRACEBACK=1 for the traceback.)", error=True)
        return 1
    return status or 0


def _help() -> str:
    """The verbs, with a line on each."""
    lines = [f"  {verb:10} {line}" for verb, (_, line) in VERBS.items()]
    return "\n".join(
        [
            "usage: clickflax VERB [--extension FILE.py ...] ...",
            "",
            "From clickstream logs to recommendations with sequence models in JAX.",
            "",
            *lines,
            "",
            "`clickflax VERB --help` lists the flags of a verb, `clickflax --version` the version.",
            "--extension FILE.py loads a file that registers blocks, losses, tasks, sources, ...",
            "Compiled programs are kept in ~/.cache/clickflax (or in $XDG_CACHE_HOME):",
            "JAX_COMPILATION_CACHE_DIR=DIR names another folder,",
            "JAX_ENABLE_COMPILATION_CACHE=false turns that off.",
        ]
    )


def _unknown(verb: str | None) -> str:
    """Says that there is no such verb, which one comes nearest, and which there are."""
    if verb is None:
        return _help()
    near = difflib.get_close_matches(verb, VERBS, n=1)
    hint = f"did you mean {near[0]}? The verbs are" if near else "the verbs are"
    return f"clickflax: {verb!r} is not a verb; {hint} {', '.join(VERBS)}."


if __name__ == "__main__":
    sys.exit(main())
