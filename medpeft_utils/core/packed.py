"""Arrays as text, for JSON: base64 of zlib of the bytes, little-endian, in C order."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Sequence

import numpy as np

from medpeft_utils.core.errors import BadInput, short


def pack(array: np.ndarray) -> str:
    """The array's values as text; `unpack` needs its dtype and shape."""
    array = np.ascontiguousarray(array)
    return base64.b64encode(zlib.compress(array.astype(array.dtype.newbyteorder('<')).tobytes(), 9)).decode()


def unpack(text: str, dtype: np.dtype | type | str, shape: Sequence[int]) -> np.ndarray:
    """The array that `pack` was given; -1 in `shape` is found from the others, and then its size has no bound.

    Raises:
        BadInput: the text is cut, spoilt, or of another shape.
    """
    try:
        bound = max(math.prod(shape) * np.dtype(dtype).itemsize + 1, 0)  # never more; 0 is no bound
        stream = zlib.decompressobj()
        content = stream.decompress(base64.b64decode(text, validate=True), bound)
        if not stream.eof:
            raise ValueError('it is cut short, or longer than its shape')
        values = np.frombuffer(content, np.dtype(dtype).newbyteorder('<'))
        return values.reshape(shape).astype(dtype)
    except (ValueError, TypeError, OverflowError, MemoryError, zlib.error) as error:
        raise BadInput(f'a packed array of {dtype} {short(shape)} cannot be read: {short(str(error))}') from error


def narrow(numbers: np.ndarray) -> np.ndarray:
    """Numbers from 0 in the smallest unsigned type that holds them."""
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))
