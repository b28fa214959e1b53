"""Attention: the arithmetic of `xla`, and every kernel compared with it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas
from jax.experimental.pallas.ops.tpu import flash_attention as tpu_kernel
from toy import small_config

from clickflax.batch import RESERVED
from clickflax.model.attention import ATTENTION, at_columns, find_attention, or_auto, visible, xla
from clickflax.model.dropout import keep_mask
from clickflax.model.kernels import KERNELS, cudnn, pad_to_block, pallas_tpu
from clickflax.model.rows import Rows, take_columns
from clickflax.run.model import build_model
from clickflax.training.setup import check_config

LENGTH = 130  # more than a block, and not a multiple of one
PACKED = jnp.array([[1] + [2] * 90 + [3] * 30 + [0] * 9, [0] * LENGTH])  # the second row is empty
ALONE = jnp.array([[1] * 100 + [0] * 30, [0] * LENGTH])


def heads(width, dtype=jnp.float32):
    """Queries, keys and values of two rows, in two heads."""
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, (2, 2, LENGTH, width), dtype) for key in keys]


def packed(segment, columns=None):
    """Rows of these segments; attention reads no positions."""
    return Rows(segment, jnp.zeros_like(segment), columns=columns)


def plain(q, k, v, segment, causal):
    """`xla` with the arguments of a kernel."""
    return xla(q, k, v, packed(segment), causal)


def answer(attend, qkv, segment, causal):
    """The outputs of events, and the gradients of a sum that counts every number otherwise."""

    def row(q, k, v, segment):
        """As in a training step: one row, mapped over."""
        return attend(q[None], k[None], v[None], segment[None], causal)[0]

    def total(*qkv):
        mixed = jax.vmap(row)(*qkv, segment)
        mixed = jnp.where(segment[:, None, :, None] > 0, mixed.astype(jnp.float32), 0.0)
        count = jnp.arange(mixed.size, dtype=jnp.float32).reshape(mixed.shape)
        return (mixed * jnp.sin(count)).sum(), mixed

    gradients, mixed = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(*qkv)
    return mixed, *gradients


def assert_as_xla(attend, width, segment, causal):
    """A kernel gives the outputs and the gradients of `xla`."""
    compiled = jax.jit(answer, static_argnums=(0, 3))
    found, wanted = (compiled(f, heads(width), segment, causal) for f in (attend, plain))
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_attention_is_the_softmax_weighted_mean_of_the_values():
    q, k, v = (jax.random.normal(jax.random.key(i), (1, 2, 4, 3)) for i in range(3))
    batch = packed(jnp.array([[1, 1, 1, 2]]))
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) / jnp.sqrt(3.0)
    weights = jax.nn.softmax(jnp.where(visible(batch, True), scores, -jnp.inf), axis=-1)
    np.testing.assert_allclose(
        xla(q, k, v, batch, True),
        jnp.einsum("bhqk,bhkd->bhqd", weights, v),
        atol=1e-6,
    )


@pytest.mark.parametrize("causal", [False, True])
def test_queries_at_some_columns_get_what_they_get_among_all(causal):
    q, k, v = heads(4)
    columns = jnp.array([[0, 7, 90, 129, 129], [3, 3, 0, 1, 129]])
    queries = take_columns(q.transpose(0, 2, 1, 3), columns).transpose(0, 2, 1, 3)

    def among_all(q, k, v):
        mixed = xla(q, k, v, packed(PACKED), causal)
        return take_columns(mixed.transpose(0, 2, 1, 3), columns).transpose(0, 2, 1, 3)

    wanted, pull = jax.vjp(lambda k, v: among_all(q, k, v), k, v)
    for attend in (xla, at_columns(plain)):
        found, back = jax.vjp(
            lambda k, v, f=attend: f(queries, k, v, packed(PACKED, columns), causal), k, v
        )
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        for a, b in zip(back(found), pull(wanted), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


def test_dropped_weights_leave_the_sum_that_divides_as_it_was():
    q = jnp.zeros((1, 1, 8, 4))  # all weights are 1/8
    key, rate = jax.random.key(3), 0.25
    kept = keep_mask(key, rate, (1, 1, 8, 8)).sum(-1, dtype=jnp.float32)
    mixed = xla(q, q, jnp.ones(q.shape), packed(jnp.ones((1, 8), int)), False, None, key, rate)
    np.testing.assert_allclose(mixed[..., 0], kept / 8 / (1 - rate), rtol=1e-6)


def test_scores_of_a_thousand_do_not_overflow():
    q = jnp.full((1, 1, 2, 4), 100.0)
    mixed = xla(q, q, jnp.ones(q.shape), packed(jnp.ones((1, 2), int)), False)
    np.testing.assert_allclose(mixed, 1.0)


@pytest.mark.parametrize("causal", [False, True])
def test_the_tpu_kernel_gives_the_outputs_and_gradients_of_xla(causal, monkeypatch):
    # JAX keeps what it has traced: no other test may have this width, which has no custom call now.
    interpreted = functools.partial(pallas.pallas_call, interpret=True)
    monkeypatch.setattr(tpu_kernel.pl, "pallas_call", interpreted)
    assert_as_xla(pallas_tpu, 16, PACKED, causal)


@pytest.mark.parametrize("causal", [False, True])
def test_the_call_of_cudnn_describes_the_attention_of_xla(causal, monkeypatch):
    real = jax.nn.dot_product_attention

    def not_cudnn(*args, implementation, **options):
        assert implementation == "cudnn"
        return real(*args, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", not_cudnn)
    assert_as_xla(cudnn, 8, ALONE, causal)


@pytest.mark.parametrize("name", KERNELS)
def test_a_training_step_is_lowered_to_the_kernel_in_every_dtype_it_has(name, monkeypatch):
    # Lowering asks no GPU, but which cuDNN there is.
    version = "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version"
    monkeypatch.setattr(version, lambda: 91_000)
    kernel = KERNELS[name]
    platform = {"gpu": "cuda", "tpu": "tpu"}[kernel.platform]
    for dtype in kernel.dtypes:
        for width in {min(kernel.widths), max(kernel.widths)}:
            trace = jax.jit(answer, static_argnums=(0, 3)).trace(
                kernel.attend, heads(width, dtype), PACKED, True
            )
            program = trace.lower(lowering_platforms=(platform,)).as_text()
            assert {"cudnn": "fmhaSoftmaxBackward"}.get(name, "custom_call") in program


def test_zeros_fill_up_whole_blocks():
    assert pad_to_block(jnp.ones((2, 90)), 1, 64).shape == (2, 128)
    assert pad_to_block(jnp.ones((2, 128)), 1, 64).shape == (2, 128)
    assert pad_to_block(jnp.ones((2, 1)), 1, 3)[0].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("platform", "dtype", "width", "dropout", "expected"),
    [
        ("cpu", "bfloat16", 32, 0.0, "xla"),
        ("gpu", "bfloat16", 32, 0.0, "xla"),
        ("tpu", "float32", 32, 0.0, "pallas_tpu"),
        ("tpu", "float32", 20, 0.0, "xla"),
        ("tpu", "float32", 32, 0.1, "xla"),
    ],
)
def test_auto_is_a_kernel_that_takes_packed_rows_or_xla(platform, dtype, width, dropout, expected):
    assert find_attention("auto", platform, dtype, width, dropout) is ATTENTION[expected]


@pytest.mark.parametrize(
    ("name", "platform", "dtype", "width", "dropout", "message"),
    [
        ("flash", "cpu", "float32", 32, 0.0, r"not one of \['auto', 'cudnn'"),
        ("pallas_tpu", "cpu", "bfloat16", 32, 0.0, "runs on tpu, but this machine has cpu.*'auto'"),
        ("pallas_tpu", "tpu", "float32", 32, 0.1, "config.model.attention_dropout=0.1 must be 0"),
        ("cudnn", "gpu", "float32", 32, 0.0, r"only in \['bfloat16'\]"),
        ("cudnn", "gpu", "bfloat16", 20, 0.0, r"width 20 .*\[8, 16, 24"),
        ("pallas_gpu", "gpu", "bfloat16", 32, 0.0, "not supported any more: .*'auto', or 'cudnn'"),
    ],
)
def test_a_kernel_that_cannot_be_used_says_why(name, platform, dtype, width, dropout, message):
    with pytest.raises(ValueError, match=message):
        find_attention(name, platform, dtype, width, dropout)


def test_every_attention_has_a_name():
    assert find_attention("xla", "gpu", "float32", 20, 0.5) is xla
    for name, kernel in KERNELS.items():
        found = find_attention(name, kernel.platform, kernel.dtypes[0], kernel.widths[0], 0.0)
        assert found is ATTENTION[name]
        assert found.__wrapped__ is kernel.attend


def test_a_kernel_of_another_platform_or_of_an_earlier_version_becomes_auto():
    assert or_auto("cudnn", "gpu") == "cudnn"
    assert or_auto("cudnn", "cpu") == "auto"
    assert or_auto("pallas_gpu", "gpu") == "auto"
    assert or_auto("xla", "tpu") == "xla"


def test_a_model_is_built_for_the_machine_it_is_built_on():
    with pytest.raises(ValueError, match="config.model.attention='pallas_tpu' runs on tpu"):
        build_model(small_config(attention="pallas_tpu").model, {"item": 12 + RESERVED})


def test_cudnn_is_refused_for_packed_rows():
    config = small_config(attention="cudnn")
    with pytest.raises(ValueError, match="config.data.packing=False, or .*'auto'"):
        check_config(config)
    config.data.packing = False
    check_config(config)
