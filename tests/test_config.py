import ast
import inspect
import json
import sys

import ml_collections
import pytest

from clickflax.config.default import (
    default,
    differences,
    from_dict,
    knobs,
    load,
    to_dict,
)


@pytest.fixture
def config_file(tmp_path):
    """`config_file("c.train.steps = 5")` is a config file with those lines in it."""

    def write(*lines):
        body = "".join(f"    {line}\n" for line in lines)
        path = tmp_path / "config.py"
        path.write_text(
            "from clickflax.config import default\n"
            "def get_config():\n"
            "    c = default()\n"
            f"{body}"
            "    return c\n"
        )
        return str(path)

    return write


def test_a_file_changes_what_it_says_and_nothing_else(config_file):
    config = load(config_file("c.train.steps = 5"))
    assert differences(default(), config) == {"config.train.steps": (default().train.steps, 5)}


def test_the_command_line_wins_over_the_file(config_file):
    assert load(config_file("c.train.steps = 5"), ["config.train.steps=7"]).train.steps == 7


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("config.train.steps=100", 100),
        ("config.data.validation_users=-1", -1),
        ("config.optim.learning_rate=1e-4", 1e-4),
        ("config.optim.learning_rate=1", 1.0),
        ("config.data.packing=False", False),
        ("config.data.packing=true", True),
        ("config.data.path=data/ml-1m", "data/ml-1m"),
        ("config.data.path=", ""),
        ("config.train.monitor=recall@10", "recall@10"),
        ("config.tasks=('next_item',)", ("next_item",)),
        ("config.tasks=next_item", ("next_item",)),
        ("config.data.variables=item,action", ("item", "action")),
        ("config.eval.cutoffs=5,10", (5, 10)),
        ("config.eval.cutoffs=[5]", (5,)),
        ("config.eval.cutoffs=10", (10,)),
        ("config.init.skip=head_*", ("head_*",)),
        ("config.init.skip=()", ()),
        ("config.data.test_from=2015-09-01T00:00:00", "2015-09-01T00:00:00"),
    ],
)
def test_an_override_has_the_type_of_its_knob(config_file, override, value):
    got = knobs(load(config_file(), [override]))[override.partition("=")[0]]
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("config.train.step=5", "config.train.step is not a knob; did you mean config.train.steps"),
        ("config.trian.steps=5", "did you mean config.train.steps"),
        ("config.zzzzzz=5", "clickflax train --help"),
        ("config.train=5", "config.train is a group of knobs, not one: .*config.train.steps"),
        ("config.train.steps=many", "config.train.steps='many' is not of type int"),
        ("config.train.steps=1.5", "config.train.steps=1.5 is not of type int"),
        ("config.train.steps=True", "config.train.steps=True is not of type int"),
        ("config.optim.learning_rate=fast", "'fast' is not of type float"),
        ("config.data.packing=maybe", "'maybe' is not of type bool"),
        ("config.eval.cutoffs=ten", r"\('ten',\) is not a tuple of int"),
        ("config.train.steps", "not of the form config.train.steps=100"),
    ],
)
def test_a_wrong_override_is_told_with_the_way_out(config_file, override, error):
    with pytest.raises(ValueError, match=error):
        load(config_file(), [override])


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("c.train.step = 5", "config.py: config.train.step is not a knob; did you mean"),
        ("c.trian.steps = 5", "line 4: config.trian is not a knob; did you mean config.train?"),
        ("c.train.steps = 'many'", "line 4: TypeError"),
        ("c.train.steps = None", "config.train.steps=None is not of type int"),
        ("c.train.steps = True", "config.train.steps=True is not of type int"),
        ("c.eval.cutoffs = ('a',)", "is not a tuple of int"),
        ("c.train.steps = 1 / 0", "line 4: ZeroDivisionError"),
        ("c.train.steps = = 5", "line 4: invalid syntax"),
        ("return 5", "returned 5, not a ConfigDict"),
    ],
)
def test_a_wrong_line_of_a_file_is_told_with_the_way_out(config_file, line, error):
    with pytest.raises(ValueError, match=error):
        load(config_file(line))


def test_a_missing_file_names_the_files_beside_it(config_file, tmp_path):
    beside = config_file()
    with pytest.raises(FileNotFoundError, match=f"confg.py is not a file; .* has {beside}"):
        load(tmp_path / "confg.py")


def test_a_file_may_be_named_with_a_word_for_its_function(tmp_path):
    path = tmp_path / "some.py"
    path.write_text(
        "from clickflax.config import default\n"
        "def get_config(word='none'):\n"
        "    c = default()\n"
        "    c.data.path = word\n"
        "    return c\n"
    )
    assert load(path).data.path == "none"
    assert load(f"{path}:some:data").data.path == "some:data"
    with pytest.raises(FileNotFoundError, match="other.py is not a file"):
        load(f"{tmp_path}/other.py:word")


def test_a_file_without_get_config_is_an_error(tmp_path):
    (tmp_path / "config.py").write_text("steps = 5\n")
    with pytest.raises(ValueError, match="no function get_config"):
        load(tmp_path / "config.py")


def test_a_file_is_read_anew_each_time(config_file):
    assert load(config_file("c.seed = 1")).seed == 1
    assert load(config_file("c.seed = 2")).seed == 2


def test_a_file_need_not_start_from_the_default(tmp_path):
    (tmp_path / "config.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'train': {'steps': 5}})\n"
    )
    changed = differences(default(), load(tmp_path / "config.py"))
    assert list(changed) == ["config.train.steps"]


def test_a_loaded_config_takes_no_new_key(config_file):
    with pytest.raises(AttributeError):
        load(config_file()).train.step = 5


def test_a_config_survives_json_with_its_tuples(config_file):
    config = load(config_file("c.tasks = ('next_item',)", "c.init.skip = ('head_*',)"))
    back = from_dict(json.loads(json.dumps(to_dict(config))))
    assert back == config and differences(back, config) == {}
    assert back.tasks == ("next_item",)


def test_a_stored_config_without_a_younger_knob_gets_its_default():
    stored = to_dict(default())
    del stored["train"]["steps"]
    assert from_dict(stored).train.steps == default().train.steps


def test_a_stored_config_with_an_unknown_knob_is_an_error():
    stored = to_dict(default())
    stored["train"]["stpes"] = 5
    with pytest.raises(ValueError, match="the stored config: .* did you mean config.train.steps"):
        from_dict(stored)


def test_a_knob_is_named_with_its_groups():
    c = ml_collections.ConfigDict({"a": 1, "b": {"c": (2,), "d": {"e": ""}}})
    assert knobs(c) == {"config.a": 1, "config.b.c": (2,), "config.b.d.e": ""}


def test_every_knob_stands_on_one_line_where_the_help_finds_its_comment():
    (function,) = ast.parse(inspect.getsource(default)).body
    knobs = [node for node in ast.walk(function) if isinstance(node, ast.Assign)]
    assert knobs
    assert not [ast.unparse(node) for node in knobs if node.lineno != node.end_lineno]


def test_a_config_file_imports_a_file_beside_it_and_nothing_stays_importable(tmp_path):
    (tmp_path / "beside_me.py").write_text("STEPS = 7\n")
    text = "import beside_me\nfrom clickflax.config import default\n\ndef get_config():\n"
    (tmp_path / "c.py").write_text(
        text + "    c = default()\n    c.train.steps = beside_me.STEPS\n    return c\n"
    )
    before = list(sys.path)
    assert load(tmp_path / "c.py").train.steps == 7
    assert sys.path == before
