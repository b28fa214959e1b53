"""Attention kernels of JAX, each for one kind of accelerator.

They never hold an [L, L] matrix in memory and have no dropout of attention weights. Modules of a
kernel are imported when it is called, as they may not exist on other platforms.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

TPU_BLOCK = 128  # rows are padded to whole blocks of the TPU's 128 lanes


def pad_to_block(x: Array, axis: int, block: int) -> Array:
    """Pads an axis with zeros to a multiple of `block`; in segments, zeros are padding."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % block)
    return jnp.pad(x, widths)


def cudnn(
    q: Float[Array, "B H L D"],
    k: Float[Array, "B H L D"],
    v: Float[Array, "B H L D"],
    segment: Int[Array, "B L"],
    causal: bool,
) -> Float[Array, "B H L D"]:
    """cuDNN's attention, for rows that hold one sequence each, with padding after it.

    It takes no packed rows: cuDNN itself can attend within the segments of a row (on GPUs of
    compute capability 9.0 and newer), but `jax.nn.dot_product_attention` has no argument for their
    offsets. Outputs at padding are zero.
    """
    # An empty row gets length 1: a mean over no event would be NaN.
    length = jnp.maximum((segment > 0).sum(-1, dtype=jnp.int32), 1)
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    # With the lengths of keys alone, the call cannot be mapped over rows with vmap.
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


def pallas_tpu(
    q: Float[Array, "B H L D"],
    k: Float[Array, "B H L D"],
    v: Float[Array, "B H L D"],
    segment: Int[Array, "B L"],
    causal: bool,
) -> Float[Array, "B H L D"]:
    """JAX's flash attention for TPUs (Dao et al., 2022), written in Pallas."""
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
    """A kernel and its limits."""

    attend: Callable[..., Array]
    platform: str
    dtypes: tuple[str, ...]
    widths: tuple[int, ...]  # of a head
    packed: bool  # whether a row may hold several sequences


EIGHTS = tuple(range(8, 129, 8))
KERNELS = {
    "cudnn": Kernel(cudnn, "gpu", ("bfloat16",), EIGHTS, packed=False),
    "pallas_tpu": Kernel(pallas_tpu, "tpu", ("bfloat16", "float32"), EIGHTS, packed=True),
}
# Values of config.model.attention in earlier versions, and why they are gone.
REMOVED = {"pallas_gpu": "JAX removes its Pallas kernel for GPUs"}


def obstacle(name: str, platform: str, dtype: str, width: int, dropout: float) -> str:
    """The reason why a kernel cannot be used, with the way out; empty if it can."""
    kernel = KERNELS[name]
    if platform != kernel.platform:
        return f"runs on {kernel.platform}, but this machine has {platform}"
    if dropout:
        return f"has no dropout: config.model.attention_dropout={dropout} must be 0"
    if dtype not in kernel.dtypes:
        return f"does not compute in config.model.dtype={dtype!r}, only in {list(kernel.dtypes)}"
    if width not in kernel.widths:
        return (
            f"does not support heads of width {width} (config.model.width / config.model.heads), "
            f"only {list(kernel.widths)}"
        )
    return ""
