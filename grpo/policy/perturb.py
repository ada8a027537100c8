"""Changing every trained tensor so that it can be seen where it arrives, and undoing it to the bit.

A weight's highest mantissa bit is flipped, which moves it by a third to a half of itself: for half of its numbers, by a
pattern that starts elsewhere in each tensor. Flipping again restores the bits, so no copy is kept. What is zero
throughout (a bias, LoRA's B) has no mantissa: the bits of a small number are flipped there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

PERIOD = 65_537  # a prime: no row of a weight has that length, so that rows differ, too
SMALL, HALF = 0.0625, 0.5  # in the place of a zero; of one that steers a choice

BITS = {
    torch.float32: (torch.int32, 1 << 22),
    torch.bfloat16: (torch.int16, 1 << 6),
    torch.float16: (torch.int16, 1 << 9),
}

STEERED = {torch.float32: 1 << 26, torch.bfloat16: 1 << 10, torch.float16: 1 << 12}  # bit 3 (2) of the exponent


@dataclass(frozen=True, slots=True)
class Part:
    """A trained tensor, or one of the matrices that are stacked in it. Example: Part("layers.0.mlp.experts.w", 3)"""

    name: str
    index: int | None = None

    def __str__(self) -> str:
        return self.name if self.index is None else f"{self.name}[{self.index}]"


class Perturbation:
    """Of these parameters, which keep their place. Sharded, each rank flips its own shard.

    `steered`: biases of a choice, which is discrete: the first half of each is changed by far more, see STEERED.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], steered: Mapping[str, Tensor] | None = None) -> None:
        trained: dict[str, Tensor] = {name: one for name, one in parameters.items() if one.requires_grad}
        self._steered = set(steered or ())
        self._parameters = {name: one for name, one in (trained | dict(steered or {})).items() if one.dtype in BITS}
        self._zeros: set[Part] = set()  # that are flipped

    @property
    def parts(self) -> list[Part]:
        return [Part(name) for name in self._parameters]

    def stacked(self, part: Part) -> list[Part]:
        """The matrices of a tensor that holds several, such as those of experts; of any other, itself."""
        parameter = self._parameters[part.name]
        if part.index is not None or parameter.dim() < 3 or isinstance(parameter, DTensor):
            return [part]
        return [Part(part.name, i) for i in range(len(parameter))]

    @torch.no_grad()
    def flip(self, parts: Sequence[Part]) -> None:
        """Perturb them; called again with the same, put them back."""
        names = list(self._parameters)
        for part in parts:
            parameter = self._parameters[part.name].detach()
            tensor = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            tensor = tensor if part.index is None else tensor[part.index]
            kind, mantissa = BITS[tensor.dtype]
            steers = part.name in self._steered
            bits = tensor.view(kind)
            if part in self._zeros:
                self._zeros.remove(part)
                mask = _bits_of(HALF if steers else SMALL, tensor.dtype)
            elif not bits.any():
                self._zeros.add(part)
                mask = _bits_of(HALF if steers else SMALL, tensor.dtype)
            else:
                mask = STEERED[tensor.dtype] if steers else mantissa
            if steers:
                flat = bits.reshape(-1)
                flat[: len(flat) // 2].bitwise_xor_(mask)
                continue
            _flip(bits, mask, start=7919 * names.index(part.name) + 104_729 * (part.index or 0))

    def blocks(self) -> list[str]:
        """Names of the decoder's layers: what a number stands behind. Example: ["model.layers.0", "model.layers.1"]"""
        found = (re.match(r"(.*?\.\d+)\.", name) for name in self._parameters)
        return list(dict.fromkeys(match.group(1) for match in found if match))

    @torch.no_grad()
    def exchange(self, one: str, other: str) -> None:
        """Two blocks' tensors change places; called again, they are back. Those without a counterpart stay."""
        for name, parameter in self._parameters.items():
            counterpart = self._parameters.get(other + name.removeprefix(one)) if name.startswith(f"{one}.") else None
            if counterpart is not None and counterpart.shape == parameter.shape:
                kept = parameter.detach().clone()
                parameter.copy_(counterpart)
                counterpart.copy_(kept)


def _flip(bits: Tensor, mask: int, start: int) -> None:
    flat = bits.reshape(-1)  # a view, unless the tensor lies scattered
    generator = torch.Generator().manual_seed(0)
    pattern = (
        torch.randint(2, (PERIOD,), generator=generator).roll(-(start % PERIOD)).to(flat.device, flat.dtype) * mask
    )
    whole = len(flat) // PERIOD * PERIOD
    flat[:whole].view(-1, PERIOD).bitwise_xor_(pattern)
    flat[whole:].bitwise_xor_(pattern[: len(flat) - whole])
    if flat.data_ptr() != bits.data_ptr():
        bits.copy_(flat.view(bits.shape))


def _bits_of(value: float, dtype: torch.dtype) -> int:
    return int(torch.tensor(value, dtype=dtype).view(BITS[dtype][0]))
