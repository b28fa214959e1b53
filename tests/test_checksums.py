"""The small files of a run have checksums: what has changed is named, and a resume is no change."""

import json
import pathlib
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import clickflax
from clickflax.config.default import override
from clickflax.run.checksums import CHECKSUMS_FILE, read_checksums, write_config
from clickflax.run.folder import load_run, read_config, variables_of, vocabularies_of

OLD_RUN = pathlib.Path(__file__).resolve().parent / "runs" / "0.1.0" / "next_item"
FILES = ["config.json", "variables.json"]
FILES += [f"vocab/{name}.parquet" for name in ("action", "item", "tags")]


@pytest.fixture
def run(tmp_path):
    """The folder of a run, of which an earlier version has written all but the checksums."""
    folder = shutil.copytree(OLD_RUN, tmp_path / "run")
    write_config(folder, read_config(folder))
    return folder


def read_small_files(folder):
    """Reads what `load_run` reads before the checkpoint."""
    config, vocabularies = read_config(folder), vocabularies_of(folder)
    tokens = {name: (one.tokens(), one.titles()) for name, one in vocabularies.items()}
    return config.to_dict(), variables_of(folder), tokens


def test_the_checksums_cover_config_variables_and_vocabularies(run):
    assert sorted(read_checksums(run)) == FILES
    assert read_small_files(run)[0] == read_small_files(OLD_RUN)[0]


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(FILES), share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed_and_the_file_named(run, name, share, bit):
    whole = (run / name).read_bytes()
    changed = bytearray(whole)
    changed[int(share * len(whole))] ^= 1 << bit
    (run / name).write_bytes(changed)
    try:
        with pytest.raises(ValueError, match=str(run / name)):
            read_small_files(run)
    finally:
        (run / name).write_bytes(whole)


@pytest.mark.parametrize("name", FILES)
def test_opening_a_run_names_a_file_that_was_replaced_by_a_valid_one(run, name):
    if name.endswith(".json"):
        values = json.loads((run / name).read_text())
        values[next(iter(values))] = values.pop(next(iter(values)))  # the keys in another order
        (run / name).write_text(json.dumps(values))
    else:
        other = "tags" if "item" in name else "item"
        shutil.copy(run / "vocab" / f"{other}.parquet", run / name)
    with pytest.raises(ValueError, match=f"{name} has changed since .*remove .*{CHECKSUMS_FILE}"):
        load_run(run)


def test_a_vocabulary_that_is_missing_or_new_is_named(run):
    shutil.copy(run / "vocab" / "tags.parquet", run / "vocab" / "more.parquet")
    with pytest.raises(ValueError, match="vocab/more.parquet has changed"):
        load_run(run)
    (run / "vocab" / "more.parquet").unlink()
    (run / "vocab" / "tags.parquet").unlink()
    with pytest.raises(ValueError, match="vocab/tags.parquet is missing"):
        load_run(run)


def test_a_run_without_checksums_opens(run):
    (run / CHECKSUMS_FILE).unlink()
    (run / "config.json").write_text((run / "config.json").read_text() + "\n")
    assert read_small_files(run) == read_small_files(OLD_RUN)


def changed_config(folder, step):
    """The config of a run with another knob that may change."""
    return override(read_config(folder), [f"config.train.wandb=project-{step}"])


def test_a_config_that_changes_often_opens_each_time(run):
    for step in range(4):
        write_config(run, changed_config(run, step))
        assert read_config(run).train.wandb == f"project-{step}"
        assert len(read_checksums(run)["config.json"]) == 2


@pytest.mark.parametrize("writes", [0, 1])
def test_a_run_opens_after_a_kill_between_any_two_writes(run, monkeypatch, writes):
    write_config(run, changed_config(run, 0))
    replace, done = pathlib.Path.replace, []

    def killed(path, target):
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(target)
        return replace(path, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(pathlib.Path, "replace", killed)
        write_config(run, changed_config(run, 1))
    assert read_config(run).train.wandb == "project-0"
    write_config(run, changed_config(run, 2))
    assert read_config(run).train.wandb == "project-2"


def test_a_flipped_bit_is_not_taken_for_a_change_of_the_config(run):
    whole = (run / "variables.json").read_bytes()
    (run / "variables.json").write_bytes(whole.replace(b"30", b"31"))
    write_config(run, changed_config(run, 0))  # as a resume does, which adds no checksum of others
    with pytest.raises(ValueError, match="variables.json has changed"):
        variables_of(run)


def test_titles_are_those_of_the_run_that_was_opened_last(run):
    """A run that is trained anew in its folder has files of the same names and sizes."""
    path = run / "vocab" / "item.parquet"
    history = ["item-3", "item-4"]
    with pytest.warns(UserWarning, match="taken as missing"):
        [[old]] = clickflax.top_k(load_run(run), [history], k=1)
    table = pq.read_table(path)
    titles = pa.array([f"New {token}" for token in table["token"].to_pylist()])
    index = table.column_names.index("title")
    pq.write_table(table.set_column(index, "title", titles), path)
    (run / CHECKSUMS_FILE).unlink()
    with pytest.warns(UserWarning, match="taken as missing"):
        [[new]] = clickflax.top_k(load_run(run), [history], k=1)
    assert (new.item, new.title) == (old.item, f"New {old.item}")


def test_an_open_run_does_not_read_the_vocabulary_of_another_training(run):
    opened = load_run(run)
    path = run / "vocab" / "item.parquet"
    table = pq.read_table(path)
    other = pa.array(f"other {token}" for token in table["token"].to_pylist())
    pq.write_table(table.set_column(0, "token", other), path)
    for read in (opened.items.tokens, opened.items.titles, opened.items.feature_names):
        with pytest.raises(ValueError, match=f"{path} has changed since it was opened"):
            read()


def test_an_open_run_keeps_the_tokens_that_it_has_read(run):
    opened = load_run(run)
    tokens = opened.items.tokens()
    shutil.copyfile(run / "vocab" / "action.parquet", run / "vocab" / "item.parquet")
    assert opened.items.tokens() == tokens
