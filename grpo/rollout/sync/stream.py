"""The weights of a model as one ordered stream of (name, tensor).

    for spec, tensor in read(stream):   # use it, before the next one is asked for
        ...

A stream says what will come (`specs`) without touching a weight. Reading it from start to end is one pass over the
model, one tensor at a time, so nobody holds a second copy of it. Where the trainer is several ranks, each tensor is a
gather that every rank takes part in: they all read the whole stream, in the same order, or wait for each other for
ever. So `read` goes through what is left when its reader stops early.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a tensor will be. Example: TensorSpec("model.norm.weight", torch.bfloat16, (576,))"""

    name: str  # in the transformers checkpoint
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.name} {str(self.dtype).removeprefix('torch.')} {list(self.shape)}"


class WeightStream(Protocol):
    """Weights that can be read any number of times; they may be others the next time.

    Each tensor is valid until the next one is asked for. Read it by `read`, not by itself.
    """

    @property
    def specs(self) -> Sequence[TensorSpec]:
        """Of what will come, in that order; known without a gather."""
        ...

    def __iter__(self) -> Iterator[tuple[str, Tensor]]: ...


def read(stream: WeightStream) -> Generator[tuple[TensorSpec, Tensor]]:
    """The stream from start to end, each tensor compared with its spec; raises ValueError where they differ.

    A reader that may stop early uses `contextlib.closing(read(stream))`: closing reads the rest and drops it.
    """
    tensors = iter(stream)
    try:
        for spec in stream.specs:
            name, tensor = next(tensors, ("nothing", torch.empty(0)))
            came = TensorSpec(name, tensor.dtype, tuple(tensor.shape))
            if came != spec:
                raise ValueError(f"the stream of weights gave {came}, expected {spec}")
            yield spec, tensor.detach()
        if (more := next(tensors, None)) is not None:
            raise ValueError(f"the stream of weights gave {more[0]}, expected its end")
    finally:
        for _ in tensors:  # the other ranks go through all of it, too
            pass


class TensorStream:
    """Tensors that lie in memory, as a stream."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    @property
    def specs(self) -> Sequence[TensorSpec]:
        return [TensorSpec(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self._tensors.items()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._tensors.items()


def total_bytes(specs: Sequence[TensorSpec]) -> int:
    return sum(spec.n_bytes for spec in specs)


def to_json(specs: Sequence[TensorSpec]) -> list[list[Any]]:
    return [[spec.name, str(spec.dtype).removeprefix("torch."), list(spec.shape)] for spec in specs]


def from_json(rows: Sequence[Sequence[Any]]) -> list[TensorSpec]:
    return [TensorSpec(name, getattr(torch, dtype), tuple(shape)) for name, dtype, shape in rows]
