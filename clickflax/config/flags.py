"""The flags of a verb with a config: `--config=FILE --config.train.steps=100`."""

import argparse
import inspect
from collections.abc import Sequence

import ml_collections

from clickflax.config.default import default, load


def flags_of(verb: str, others: str) -> argparse.ArgumentParser:
    """A parser for a verb with a config, whose help lists every knob."""
    parser = argparse.ArgumentParser(
        prog=f"clickflax {verb}",
        usage=f"clickflax {verb} --config=FILE {others} [--config.KNOB=VALUE ...]",
        epilog="every knob, with its default:\n" + _listing().replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="a file with get_config(), as in configs/")
    return parser


def parse_flags(
    parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[ml_collections.ConfigDict, argparse.Namespace]:
    """The config of the flags `--config=FILE --config.train.steps=100`, and all flags."""
    flags, rest = parser.parse_known_args(argv)
    overrides = []
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--config."):
            known = ", ".join(f"--{name}" for name in vars(flags))
            parser.error(f"{flag} is not a flag; the flags are {known}, --config.KNOB")
        if "=" not in flag:
            if not rest or rest[0].startswith("--"):
                parser.error(f"{flag} needs a value: {flag}=VALUE")
            flag = f"{flag}={rest.pop(0)}"
        overrides.append(flag)
    return load(flags.config, overrides), flags


def _listing() -> str:
    """The lines of `default()` that set a knob, with their comments."""
    lines = (line.strip() for line in inspect.getsource(default).splitlines())
    wanted = (line for line in lines if line.startswith("c.") and "ConfigDict" not in line)
    return "\n".join(f"  --config.{line[2:]}".replace(" = ", "=", 1) for line in wanted)


def add_processes(parser: argparse.ArgumentParser) -> None:
    """The flags that `runtime.processes.start` wants to know."""
    parser.add_argument(
        "--processes", default="", help="that work together: a number, or auto: Slurm, TPU VM, GKE"
    )
    parser.add_argument("--coordinator", default="", help="HOST:PORT of the first of N processes")
    parser.add_argument("--process", type=int, help="which of N processes this is, from 0 on")
    parser.add_argument(
        "--devices", type=int, default=0, help="that all have together, or it does not start"
    )
