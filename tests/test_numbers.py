"""Numbers of a config: extreme values are refused by the name of their knob, or can be trained."""

import math

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import small_config

from clickflax.config.check import check_config
from clickflax.config.check_numbers import RANGES, check_memory
from clickflax.config.default import default, from_dict, knobs, override, to_dict
from clickflax.data.durations import parse_gap
from clickflax.run.model import assignments
from clickflax.simulation.main import Shop, simulate
from clickflax.training.loop import train

NUMBERS = {
    name: value
    for name, value in knobs(default()).items()
    if isinstance(value, int | float) or (isinstance(value, tuple) and value and value != ("",))
    if not isinstance(value, bool) and name != "config.tasks" and name != "config.data.variables"
}
EXTREME_INTS = st.one_of(
    st.sampled_from([0, 1, -1, 2**31 - 1, 2**31, 2**63, -(2**63), 10**30, 10**400]), st.integers()
)
EXTREME_FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 1e-300, 1e30, 1e300, -1e300, math.inf, math.nan, 5e-324]),
    st.floats(),
)
OTHERS = st.sampled_from([True, False, "1", None, (1,), 1.5])


def with_knob(name, value):
    """The default with one knob set, as from a stored config."""
    group, _, knob = name.removeprefix("config.").rpartition(".")
    values = to_dict(default())
    (values[group] if group else values)[knob] = value
    return from_dict(values)


@given(
    st.sampled_from(sorted(NUMBERS)),
    st.one_of(EXTREME_INTS, EXTREME_FLOATS, OTHERS),
    st.booleans(),
)
def test_an_extreme_value_of_a_knob_passes_or_is_refused_by_its_name(name, value, text):
    value = (value,) if isinstance(NUMBERS[name], tuple) and not isinstance(value, tuple) else value
    try:
        config = override(default(), [f"{name}={value}"]) if text else with_knob(name, value)
        check_config(config)
    except ValueError as error:
        assert name in str(error)
        return
    checked = knobs(config)[name]
    for number in checked if isinstance(checked, tuple) else (checked,):
        assert type(number) in (int, float) and abs(number) < 2**31


def test_every_number_among_the_knobs_has_a_range():
    assert set(RANGES) == set(NUMBERS)
    check_config(default())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.max_len=2147483648", "max_len=2147483648, .* would take 3.3 TB for one row, more"),
        ("model.width=9223372036854775808", "width=9223372036854775808, .*take 1e.10 TB"),
        ("model.feed_forward=10**30", "feed_forward='10\\*\\*30' is not of type int"),
        ("model.layers=1000000", "layers=1000000 must be from 1 to 1000"),
        ("optim.clip_norm=1e-300", "clip_norm=1e-300 must be 0, or from 0.0001 to 1000000000.0"),
        ("model.dropout=1e-300", "dropout=1e-300 is 0 in float32"),
        ("optim.eps=1e999", "eps=inf is not of type float and finite"),
        ("optim.eps=0", "eps=0.0 must be from 1e-30 to 1"),
        ("optim.learning_rate=nan", "learning_rate='nan' is not of type float"),
        ("optim.learning_rate=1e300", "learning_rate=1e.300 must be from 1e-12 to 100"),
        ("optim.b1=1", "b1=1.0 must be from 0 to 0.9999"),
        ("optim.b1=True", "b1=True is not of type float"),
        ("optim.warmup_steps=1e30", "warmup_steps=1e.30 is not of type int"),
        ("task_weights=(True,)", r"task_weights=\(True,\) is not a tuple of float"),
        ("task_weights=(0.0,)", r"task_weights=\(0.0,\) must be from 1e-06"),
        ("eval.cutoffs=(True,)", r"cutoffs=\(True,\) is not a tuple of int"),
        ("eval.cutoffs=()", r"cutoffs=\(\) must have at least one number"),
        ("eval.cutoffs=(3,)", r"monitor='ndcg@10' .* \(config.eval.cutoffs=\(3,\)\)"),
    ],
)
def test_a_number_that_cannot_be_trained_is_refused_with_the_reason(change, message):
    with pytest.raises(ValueError, match=message):
        check_config(override(default(), [f"config.{change}"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("data.test_share=0.5", "data.validation_share=0.5"), "sum must be below 1"),
        (("optim.learning_rate=1e-9", "optim.warmup_steps=2000000000"), "nothing is learned"),
        (("optim.learning_rate=0.1", "optim.weight_decay=10"), "must be below 1"),
    ],
)
def test_numbers_that_only_together_learn_nothing_are_refused(changes, message):
    changes = [f"config.{change}" for change in ("data.split=ratio", *changes)]
    with pytest.raises(ValueError, match=message):
        check_config(override(default(), changes))


def test_the_memory_of_this_machine_is_a_limit_of_a_training():
    config = override(default(), ["config.model.max_len=600000"])
    check_memory(config, 10**9, "more than there is")
    with pytest.raises(ValueError, match=r"take 1.5 GB for one row, more than there is \(1.0 GB\)"):
        check_memory(
            override(config, ["config.model.max_len=1000000"]), 10**9, "more than there is"
        )


def test_numbers_inside_of_text_have_limits_too():
    with pytest.raises(ValueError, match="config.model.widths: 'item=99999' must have a number up"):
        assignments("config.model.widths", ("item=99999",))
    with pytest.raises(ValueError, match="--gap=9{400}d is not a time"):
        parse_gap("--gap", "9" * 400 + "d")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("config.optim.clip_norm", 1e-4),
        ("config.optim.eps", 1e-30),
        ("config.optim.b1", 0.9999),
        ("config.optim.b2", 0.999999),
        ("config.model.temperature", 1e-4),
        ("config.model.init_stddev", 100.0),
        ("config.train.batch_size", 100_000),
        ("config.train.steps_at_once", 100_000),
        ("config.eval.negatives", 2**31 - 1),
        ("config.eval.cutoffs", (10, 2**31 - 1)),
    ],
)
def test_an_extreme_value_that_is_accepted_trains(tmp_path_factory, tmp_path, name, value):
    shop = tmp_path_factory.getbasetemp() / "shop-of-numbers"
    if not shop.is_dir():
        simulate(shop, Shop(sequences=60, items=12, seed=1))
    config = small_config(layers=1)
    config.data.path = str(shop)
    config.train.update({"batch_size": 16, "steps": 2, "eval_every": 2})
    group, knob = name.split(".")[1:]
    config[group][knob] = value
    with jax.numpy_dtype_promotion("standard"):
        result = train(from_dict(to_dict(config)), tmp_path / "run")
    assert result["step"] == 2 and result["validation/ndcg@10"] > 0
