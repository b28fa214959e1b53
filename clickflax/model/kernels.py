"""Attention kernels that others wrote, each for one kind of accelerator.

They hold no [L, L] matrix in memory, and drop no attention weights: their `key` is always None.
Each is imported when called, for its platform may be another one than this.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Rows are filled up to whole blocks. JAX's own tests of the GPU kernel have blocks of 64 and 128,
# of which the smaller wastes less on short rows; the TPU kernel has a width of 128 lanes.
GPU_BLOCK = 64
TPU_BLOCK = 128


def pad_to_block(x: Array, axis: int, block: int) -> Array:
    """Zeros behind an axis, up to whole blocks; as segments, zeros are padding."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % block)
    return jnp.pad(x, widths)


def cudnn(
    q: Float[Array, "B H L D"],
    k: Float[Array, "B H L D"],
    v: Float[Array, "B H L D"],
    segment: Int[Array, "B L"],
    causal: bool,
    key: None,
    rate: float,
) -> Float[Array, "B H L D"]:
    """cuDNN's attention, for rows of one sequence with padding behind it; padding gets zeros."""
    # A row without an event has length 1: a mean over nothing would not be a number.
    length = jnp.maximum((segment > 0).sum(-1, dtype=jnp.int32), 1)
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    # Both lengths: with that of the keys alone it cannot be mapped over rows.
    mixed = jax.nn.dot_product_attention(
        q,
        k,
        v,
        is_causal=causal,
        query_seq_lengths=length,
        key_value_seq_lengths=length,
        implementation="cudnn",
    )
    return mixed.transpose(0, 2, 1, 3)


def pallas_gpu(
    q: Float[Array, "B H L D"],
    k: Float[Array, "B H L D"],
    v: Float[Array, "B H L D"],
    segment: Int[Array, "B L"],
    causal: bool,
    key: None,
    rate: float,
) -> Float[Array, "B H L D"]:
    """The flash attention of JAX for GPUs (Dao et al., 2022), written in Pallas on Triton."""
    from jax.experimental.pallas.ops.gpu import attention

    length, width = q.shape[2:]
    q, k, v = (pad_to_block(x.transpose(0, 2, 1, 3), 1, GPU_BLOCK) for x in (q, k, v))
    mixed: Any = attention.mha(
        q,
        k,
        v,
        pad_to_block(segment, 1, GPU_BLOCK),
        sm_scale=width**-0.5,
        causal=causal,
        block_sizes=attention.BlockSizes(*[GPU_BLOCK] * 6),
    )
    return mixed[:, :length].transpose(0, 2, 1, 3)


def pallas_tpu(
    q: Float[Array, "B H L D"],
    k: Float[Array, "B H L D"],
    v: Float[Array, "B H L D"],
    segment: Int[Array, "B L"],
    causal: bool,
    key: None,
    rate: float,
) -> Float[Array, "B H L D"]:
    """The flash attention of JAX for TPUs (Dao et al., 2022), written in Pallas."""
    from jax.experimental.pallas.ops.tpu import flash_attention

    length, width = q.shape[2:]
    q, k, v = (pad_to_block(x, 2, TPU_BLOCK) for x in (q, k, v))
    segment = pad_to_block(segment, 1, TPU_BLOCK)
    mixed = flash_attention.flash_attention(
        q,
        k,
        v,
        segment_ids=flash_attention.SegmentIds(segment, segment),
        causal=causal,
        sm_scale=width**-0.5,
    )
    return mixed[:, :, :length]


class Kernel(NamedTuple):
    """An attention, and what it can do."""

    attend: Callable[..., Array]
    platform: str
    dtypes: tuple[str, ...]
    widths: tuple[int, ...]  # of a head
    packed: bool  # whether a row may hold several sequences


EIGHTS = tuple(range(8, 129, 8))
KERNELS = {
    "cudnn": Kernel(cudnn, "gpu", ("bfloat16",), EIGHTS, packed=False),
    # What JAX's own tests run on GPUs: halves, and these widths.
    "pallas_gpu": Kernel(pallas_gpu, "gpu", ("bfloat16",), (32, 64, 128), packed=True),
    "pallas_tpu": Kernel(pallas_tpu, "tpu", ("bfloat16", "float32"), EIGHTS, packed=True),
}


def obstacle(name: str, platform: str, dtype: str, width: int, dropout: float) -> str:
    """Why a kernel cannot attend so, with the way out; empty when it can."""
    kernel = KERNELS[name]
    if platform != kernel.platform:
        return f"runs on {kernel.platform}, and this is {platform}"
    if dropout:
        return f"drops no weights: model.attention_dropout={dropout} must be 0"
    if dtype not in kernel.dtypes:
        return f"does not compute in model.dtype={dtype!r}, only in {list(kernel.dtypes)}"
    if width not in kernel.widths:
        return f"has no heads of width {width} (model.width / model.heads): {list(kernel.widths)}"
    return ""
