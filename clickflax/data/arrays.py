"""Arrays of a data set: `.npy` files that are written in pieces and read as memory maps."""

import contextlib
import math
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np

from clickflax.runtime.files import REMEDY

CHUNK_VALUES = 1 << 22  # read at once, so that memory is bounded
# The header as numpy writes it. Its own reader evaluates any Python literal, and fails in as many
# ways.
HEADER = re.compile(
    rb"\{'descr': '([<|][a-z]\d)', 'fortran_order': (False|True), "
    rb"'shape': \((\d{1,18}(?:, ?\d{1,18})*),?\), ?\} *\n"
)


@contextlib.contextmanager
def array_writer(
    path: pathlib.Path, dtype: np.dtype, shape: tuple[int, ...]
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields a function that appends values, along the first axis, to a new `.npy`.

    A full disk raises OSError; with a memory map it would end the process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    dtype = np.dtype(dtype)

    def append(values: np.ndarray) -> None:
        nonlocal written
        if values.dtype != dtype:
            raise ValueError(f"{path.name}: {values.dtype} values for a {dtype} column.")
        if values.shape[1:] != shape[1:]:
            raise ValueError(f"{path.name}: {values.shape} values for a {shape} column.")
        file.write(np.ascontiguousarray(values).data)
        written += len(values)

    with path.open("wb") as file:
        header = {
            "descr": np.lib.format.dtype_to_descr(dtype.newbyteorder("<")),
            "fortran_order": False,
            "shape": shape,
        }
        np.lib.format.write_array_header_1_0(file, header)
        yield append
    if written != shape[0]:
        raise ValueError(f"{path.name}: {written} values were written, not {shape[0]}.")


class ArrayHeader(NamedTuple):
    """What a `.npy` says of its values, and the byte at which they begin."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    order: Literal["C", "F"]


def array_header(path: pathlib.Path) -> ArrayHeader:
    """Returns the header of a `.npy`.

    Raises ValueError for another file, one of another size, and an array of objects.
    """
    with path.open("rb") as file:
        start = file.read(10)
        length = int.from_bytes(start[8:], "little")
        header = HEADER.fullmatch(file.read(length))
    if start[:8] != b"\x93NUMPY\x01\x00" or header is None:
        raise ValueError(f"{path} is not an array of numbers in the format of numpy. {REMEDY}")
    try:
        dtype = np.dtype(header[1].decode())
    except TypeError:
        raise ValueError(
            f"{path} has values of the type {header[1].decode()!r}. {REMEDY}"
        ) from None
    shape = tuple(map(int, header[3].split(b",")))
    size = len(start) + length + math.prod(shape) * dtype.itemsize
    if size != path.stat().st_size or dtype.hasobject:
        raise ValueError(
            f"{path} has {path.stat().st_size:,} bytes, and {dtype} values of the shape {shape} "
            f"have {size:,}. {REMEDY}"
        )
    order = "F" if header[2] == b"True" else "C"
    return ArrayHeader(shape, dtype, len(start) + length, order)


def open_array(path: pathlib.Path) -> np.ndarray:
    """Returns the array of a `.npy` as a read-only memory map; see `array_header` for errors."""
    shape, dtype, offset, order = array_header(path)
    return np.memmap(path, dtype, "r", offset, shape, order)


def array_chunks(path: pathlib.Path) -> Iterator[np.ndarray]:
    """Yields the values of a `.npy` as they lie in it, flat, up to CHUNK_VALUES at a time."""
    header = array_header(path)
    with path.open("rb") as file:
        file.seek(header.offset)
        while len(values := np.fromfile(file, dtype=header.dtype, count=CHUNK_VALUES)):
            yield values
