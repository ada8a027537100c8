"""Where the groups of a packed row lie, and what attention needs of that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PackedGroup:
    """Where one group lies in the row: [start, middle) is the prompt, `ends` close its completions one by one.

    Example: PackedGroup(start=0, middle=3, ends=(5, 9)): a prompt of 3 tokens, completions of 2 and of 4.
    `ends` may be empty: the prompt alone.
    """

    start: int
    middle: int
    ends: tuple[int, ...]

    @property
    def segments(self) -> Iterator[tuple[int, int]]:
        yield self.start, self.middle
        yield from zip((self.middle, *self.ends), self.ends, strict=False)

    @property
    def end(self) -> int:
        return self.ends[-1] if self.ends else self.middle


@dataclass(frozen=True, slots=True)
class Batch:
    """Segments of about one length, attended to together. `at_SN`: positions in the row, right-padded with any."""

    at_SN: Tensor
    real_SN: Tensor  # bool: not padding


@dataclass(frozen=True, slots=True)
class Layout:
    """The groups of one row, and what attention needs of them, worked out once for all layers.

    `position_T`: each token's position in its own sequence (prompt and completion); `longest`: tokens of the longest.
    """

    groups: tuple[PackedGroup, ...]
    position_T: Tensor
    longest: int
    batches: tuple[Batch, ...]
    block_masks: dict[int | None, Any] = field(default_factory=dict)  # GPU: by window

    @property
    def shared(self) -> list[PackedGroup]:
        """The groups whose completions have tokens that look back at their prompt."""
        return [group for group in self.groups if group.ends]


def lay_out(groups: Sequence[PackedGroup], device: torch.device | str = "cpu") -> Layout:
    position_T = torch.cat(
        [
            torch.arange(end - start) + (start >= g.middle) * (g.middle - g.start)
            for g in groups
            for start, end in g.segments
        ]
    )
    longest = int(position_T.max()) + 1
    return Layout(
        tuple(groups), position_T.to(device), longest, tuple(_batches([s for g in groups for s in g.segments]))
    )


def _batches(segments: Sequence[tuple[int, int]]) -> Iterator[Batch]:
    """Longest first; a batch pads its segments by a quarter of the longest at most."""
    ordered = sorted(segments, key=lambda s: s[0] - s[1])
    while ordered:
        longest = ordered[0][1] - ordered[0][0]
        n = sum(end - start >= 0.75 * longest for start, end in ordered)
        batch, ordered = ordered[:n], ordered[n:]
        start_S1 = torch.tensor([[start] for start, _ in batch])
        end_S1 = torch.tensor([[end] for _, end in batch])
        at_SN = start_S1 + torch.arange(longest)
        yield Batch(torch.minimum(at_SN, end_S1 - 1), at_SN < end_S1)


def completions_and_prompt(group: PackedGroup) -> tuple[slice, slice]:
    """The completions' tokens, which see the whole prompt, and the prompt's."""
    return slice(group.middle, group.end), slice(group.start, group.middle)


def taken(x: Tensor, batch: Batch) -> Tensor:
    """(1, heads, T, D) -> (S, heads, N, D)"""
    return x[0, :, batch.at_SN].transpose(0, 1)


def own_mask(batch: Batch, window: int | None) -> Tensor | None:
    """(N, N), False where a key is out of the window; None where the causal kernel does without."""
    n = batch.at_SN.shape[1]
    if window is None or n <= window:
        return None
    distance_NN = torch.arange(n)[:, None] - torch.arange(n)
    return (distance_NN >= 0) & (distance_NN < window)


def prompt_mask(layout: Layout, group: PackedGroup, window: int | None) -> Tensor | None:
    """(completions' tokens, prompt's tokens), False where the prompt's token is out of the window."""
    queries, prompt = completions_and_prompt(group)
    position_T = layout.position_T[queries]
    if window is None or int(position_T.max()) < window:
        return None
    return position_T[:, None] - layout.position_T[prompt] < window
