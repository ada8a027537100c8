"""What a tensor's bytes amount to, computed where the tensor lies: what was sent is what arrived.

    digest = sum_k U_k sum_j T_j w_kj   mod 2^64        w_kj: 32-bit word j of block k;  T_j, U_k: odd 64-bit constants

Multilinear hashing (Lemire and Kaser, arXiv 1202.4961), with a short table of constants T that every block uses and
one constant U for each block. Whatever happens to the bits of one word is found for certain: it adds d T_j U_k with
0 < |d| < 2^32, which is no multiple of 2^64 since the constants are odd. Of anything else, such as two elements that
changed places, about one in 2^32 is missed. It is against accidents: whoever means to deceive can.

Integers only, so a CPU and a GPU agree to the bit. Name, dtype and shape are not in it: they are compared as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from grpo.rollout.sync.stream import TensorSpec, WeightStream, read

BLOCK = 2**15  # words; a block and its products stay in the cache of a core
BLOCKS_AT_ONCE = 2**9  # on a GPU: 64 MiB of weights a kernel


@torch.no_grad()
def digest(tensor: Tensor) -> Tensor:
    """An int64 on the tensor's device: nothing waits for it until its value is asked for."""
    data = tensor.detach().contiguous().view(-1).view(torch.uint8)
    if data.storage_offset() % 4:
        data = data.clone()
    n_whole = len(data) // (4 * BLOCK)
    blocks = data[: n_whole * 4 * BLOCK].view(torch.int32).view(n_whole, BLOCK)
    rest = data[n_whole * 4 * BLOCK :]
    rest = torch.nn.functional.pad(rest, (0, -len(rest) % 4)).view(torch.int32)
    constants = _constants(0, BLOCK, data.device)
    sums = torch.empty(n_whole + 1, dtype=torch.int64, device=data.device)
    sums[-1] = (rest * constants[: len(rest)]).sum()
    if data.device.type == "cpu":
        product = torch.empty(BLOCK, dtype=torch.int64)
        for block, total in zip(blocks, sums, strict=False):
            torch.mul(block, constants, out=product)
            torch.sum(product, 0, out=total)
    else:
        for some, totals in zip(blocks.split(BLOCKS_AT_ONCE), sums[:-1].split(BLOCKS_AT_ONCE), strict=True):
            torch.sum(some * constants, 1, out=totals)
    return (sums * _constants(1, len(sums), data.device)).sum()


@cache
def _constants(stream: int, n: int, device: torch.device) -> Tensor:
    """The first n odd numbers of a stream: splitmix64 (Steele et al., OOPSLA 2014), its last bit set."""
    with np.errstate(over="ignore"):
        x = (np.arange(1, n + 1, dtype=np.uint64) + np.uint64(stream << 32)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = (x ^ (x >> np.uint64(31))) | np.uint64(1)
    return torch.from_numpy(x.view(np.int64)).to(device)


def values(digests: Sequence[Tensor]) -> list[int]:
    """As numbers, in one copy from the device."""
    return [int(value) for value in torch.stack(list(digests)).tolist()] if digests else []


def digests_of(stream: WeightStream) -> list[int]:
    return values([digest(tensor) for _, tensor in read(stream)])


def checksum(specs: Sequence[TensorSpec], digests: Sequence[int]) -> str:
    """One for all tensors: their names, dtypes, shapes and bytes, in whatever order they came."""
    lines = sorted(f"{spec} {number}" for spec, number in zip(specs, digests, strict=True))
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def differences(specs: Sequence[TensorSpec], sent: Sequence[int], found: Sequence[int]) -> str:
    """Which tensors did not arrive as they left; "" if all did."""
    wrong = [spec.name for spec, a, b in zip(specs, sent, found, strict=True) if a != b]
    if not wrong:
        return ""
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return f"checksum mismatch: {', '.join(wrong[:3])}{more} did not arrive as sent"
