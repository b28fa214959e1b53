import importlib
import signal
import subprocess
import sys
import types

import pytest

import clickflax
from clickflax import cli
from clickflax.runtime.signals import Stopped


def verb_that(monkeypatch, action):
    """Make `clickflax train` do `action(argv)`."""
    module = types.ModuleType("clickflax_test_verb")
    module.main = action
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(cli.VERBS, "train", (module.__name__, "a verb of the test"))


def raises(error):
    def action(argv):
        raise error

    return action


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_a_main(verb):
    assert callable(importlib.import_module(cli.VERBS[verb][0]).main)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_tells_its_flags_on_standard_output(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([verb, "--help"])
    assert stop.value.code == 0
    assert f"clickflax {verb}" in capsys.readouterr().out


def test_help_names_every_verb(capsys):
    assert cli.main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(verb in told and line in told for verb, (_, line) in cli.VERBS.items())


def test_the_version_is_that_of_the_package(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"clickflax {clickflax.__version__}\n"


def test_an_unknown_verb_names_the_nearest_and_all(capsys):
    assert cli.main(["trian"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "'trian' is not a verb; did you mean train?" in err
    assert all(verb in err for verb in cli.VERBS)


def test_no_verb_at_all_is_wrong_usage(capsys):
    assert cli.main([]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "usage" in err


def test_a_verb_gets_what_follows_its_name(monkeypatch):
    got = []
    verb_that(monkeypatch, got.extend)
    assert cli.main(["train", "--config=a.py", "--workdir", "b"]) == 0
    assert got == ["--config=a.py", "--workdir", "b"]


def test_an_error_of_the_user_is_told_without_a_trace(monkeypatch, capsys):
    verb_that(monkeypatch, raises(ValueError("model.width=7 is not a multiple of 2.")))
    assert cli.main(["train"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("clickflax train: error: model.width=7 is not a multiple of 2.\n")
    assert "Traceback" not in err and "CLICKFLAX_TRACEBACK" in err


def test_an_error_of_the_system_names_the_file(monkeypatch, capsys):
    verb_that(monkeypatch, raises(OSError(28, "No space left on device", "runs/a/metrics.jsonl")))
    assert cli.main(["train"]) == 1
    told = "clickflax train: error: No space left on device: runs/a/metrics.jsonl: free some space"
    assert capsys.readouterr().err.startswith(told)
    verb_that(monkeypatch, raises(OSError(13, "Permission denied", "runs/a/metrics.jsonl")))
    assert cli.main(["train"]) == 1
    told = "clickflax train: error: Permission denied: runs/a/metrics.jsonl\n"
    assert capsys.readouterr().err.startswith(told)


def test_a_loss_that_is_no_number_is_told_without_a_trace(monkeypatch, capsys):
    verb_that(monkeypatch, raises(FloatingPointError("step 7: the loss is nan.")))
    assert cli.main(["train"]) == 1
    assert capsys.readouterr().err.startswith("clickflax train: error: step 7: the loss is nan.\n")


def test_on_demand_the_trace_is_shown(monkeypatch):
    verb_that(monkeypatch, raises(ValueError("wrong")))
    monkeypatch.setenv("CLICKFLAX_TRACEBACK", "1")
    with pytest.raises(ValueError, match="wrong"):
        cli.main(["train"])


def test_a_mistake_of_the_program_keeps_its_trace(monkeypatch):
    verb_that(monkeypatch, raises(KeyError("loss")))
    with pytest.raises(KeyError):
        cli.main(["train"])


def test_a_verb_that_was_told_to_end_says_so_and_ends_with_status_143(monkeypatch, capsys):
    def stopped(argv):
        raise Stopped("ended by SIGTERM at step 3", signal.SIGTERM)

    verb_that(monkeypatch, stopped)
    assert cli.main(["train"]) == 143
    assert capsys.readouterr().err == "clickflax train: ended by SIGTERM at step 3\n"


def test_an_interrupted_verb_ends_with_status_130(monkeypatch, capsys):
    verb_that(monkeypatch, raises(KeyboardInterrupt()))
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().err == "clickflax train: interrupted\n"


def test_wrong_usage_of_a_verb_ends_with_status_2():
    command = [sys.executable, "-m", "clickflax.cli", "train", "--nonsense"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == "" and "--workdir" in done.stderr


def test_a_reader_that_leaves_early_makes_no_trace():
    code = """
import sys, types
from clickflax import cli
module = types.ModuleType("many_lines")
module.main = lambda argv: print("a line\\n" * 100_000)
sys.modules["many_lines"] = module
cli.VERBS["train"] = ("many_lines", "")
sys.exit(cli.main(["train"]))
"""
    command = f"{sys.executable} -c '{code}' | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout == "a line\n"
    assert done.stderr == ""


@pytest.mark.parametrize("verb", cli.VERBS)
def test_only_verbs_that_compile_have_their_programs_kept(verb, monkeypatch):
    kept = []
    monkeypatch.setattr(cli, "enable_compilation_cache", lambda: kept.append(verb))
    monkeypatch.setitem(cli.VERBS, verb, ("clickflax_test_verb", ""))
    module = types.ModuleType("clickflax_test_verb")
    module.main = lambda argv: None
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert cli.main([verb]) == 0
    assert kept == ([verb] if verb in ("train", "evaluate", "recommend", "study") else [])
