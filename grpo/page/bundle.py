"""Arrays and plain data as one block of bytes that a browser reads without parsing the numbers.

    uint32 length of the header | header, JSON | zeros to a multiple of 8 | the arrays, each from a multiple of 8 on

The header is {"arrays": [[name, dtype, length, offset], ...], **plain}; offsets count from the end of its zeros. All is
little-endian, as every browser's typed arrays are, and compressed with gzip.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

DTYPES = {"uint8": "Uint8Array", "int32": "Int32Array", "float32": "Float32Array"}  # and their names in JavaScript


def pack_arrays(arrays: Mapping[str, np.ndarray], plain: Mapping[str, Any]) -> bytes:
    """The bundle of `arrays`, of DTYPES, and of `plain`, which JSON can hold."""
    listed, blocks, offset = [], [], 0
    for name, array in arrays.items():
        listed.append([name, DTYPES[array.dtype.name], len(array), offset])
        block = array.astype(array.dtype.newbyteorder("<")).tobytes()
        blocks.append(block + bytes(-len(block) % 8))
        offset += len(blocks[-1])
    header = as_json({"arrays": listed, **plain})
    start = struct.pack("<I", len(header)) + header
    return compressed(start + bytes(-len(start) % 8) + b"".join(blocks))


def pack_json(value: Any) -> bytes:
    return compressed(as_json(value))


def as_json(value: Any) -> bytes:
    """JSON as a browser reads it: what is not finite, which JSON has no word for, is null."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


def compressed(content: bytes) -> bytes:
    return gzip.compress(content, compresslevel=5, mtime=0)  # mtime=0: the same run gives the same page


def in_base64(part: bytes) -> str:
    return base64.b64encode(part).decode()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
