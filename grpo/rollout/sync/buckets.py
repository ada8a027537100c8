"""Tensors side by side in one run of bytes: many small ones travel as few large ones.

Both sides compute the places from the specs alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import torch
from torch import Tensor

from grpo.rollout.sync.digest import digest
from grpo.rollout.sync.stream import TensorSpec, WeightStream, read, total_bytes

ALIGNMENT = 16  # bytes; every dtype can be read there
BUCKET_BYTES = 2**26


def places(specs: Sequence[TensorSpec]) -> tuple[list[int], int]:
    """At which byte each tensor begins, and where the last one ends."""
    starts, end = [], 0
    for spec in specs:
        starts.append(-(-end // ALIGNMENT) * ALIGNMENT)
        end = starts[-1] + spec.n_bytes
    return starts, end


def buckets(specs: Sequence[TensorSpec], most: int = BUCKET_BYTES) -> list[list[TensorSpec]]:
    """Neighbours, together at most `most` bytes; a larger tensor is alone."""
    found: list[list[TensorSpec]] = []
    end = most
    for spec in specs:
        start = -(-end // ALIGNMENT) * ALIGNMENT
        end = start + spec.n_bytes
        if not found or end > most:
            found.append([])
            end = spec.n_bytes
        found[-1].append(spec)
    return found


def contents(data: Tensor, specs: Sequence[TensorSpec]) -> Iterator[tuple[TensorSpec, Tensor]]:
    """The tensors that lie in these bytes; views."""
    for spec, start in zip(specs, places(specs)[0], strict=True):
        yield spec, data[start : start + spec.n_bytes].view(spec.dtype).view(spec.shape)


def as_bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def packed(
    stream: WeightStream, device: torch.device, most: int = BUCKET_BYTES
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """The stream as buckets: (bytes, digest of each tensor in them, where it was). Valid until the next is asked for.

    `device`: where the bytes are to lie. A tensor that is alone and there already is not copied.
    """
    buffer = torch.empty(0, dtype=torch.uint8)
    with closing(read(stream)) as tensors:
        for specs in buckets(stream.specs, most):
            starts, size = places(specs)
            data, digests = buffer, []
            for start in starts:
                spec, tensor = next(tensors)
                digests.append(digest(tensor))
                if len(specs) == 1 and device == tensor.device:
                    data = as_bytes(tensor)
                    continue
                if buffer.device != device or len(buffer) < size:
                    buffer = torch.empty(
                        max(size, min(most, total_bytes(stream.specs))), dtype=torch.uint8, device=device
                    )
                data = buffer[:size]
                data[start : start + spec.n_bytes].copy_(as_bytes(tensor))
            yield data, digests
        next(tensors, None)  # lets it see that there is no more
