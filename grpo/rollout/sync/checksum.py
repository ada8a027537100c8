"""One digest over named tensors: what was sent is what arrived."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import xxhash

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
}


def checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    """One digest (XXH3, 128 bits) over names, dtypes, shapes and bytes; the mapping's order does not matter."""
    digest = xxhash.xxh3_128()
    for name in file_order(tensors):
        add_to_digest(digest, name, tensors[name])
    return digest.hexdigest()


def file_order(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """By falling element size, then name: in a file, it keeps every tensor aligned."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def add_to_digest(digest: Any, name: str, tensor: torch.Tensor) -> memoryview:
    """Add one tensor to the digest; return its bytes."""
    data = memoryview(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    digest.update(f"{name} {DTYPES[tensor.dtype]} {tuple(tensor.shape)}\n".encode())
    digest.update(data)
    return data
