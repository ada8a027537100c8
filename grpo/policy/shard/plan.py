"""Which rank computes what: groups whole, ranks of about one cost, all with equally many micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from grpo.policy.packing.pack import pieces
from grpo.types import Sample

Split = Callable[[Sequence[Sample], int], list[list[int]]]


def shares(
    samples: Sequence[Sample], max_tokens: int, split: Split, ranks: int = 1, width: int = 1
) -> list[list[list[int]]]:
    """Of each rank, its micro-batches as indices of samples; ranks with less work get empty ones at the end.

    Args:
        split: samples -> micro-batches of at most `max_tokens`.
        width: the model's hidden size.
    """
    if ranks == 1:
        return [split(samples, max_tokens)]
    loads = [0.0] * ranks
    chosen: list[list[int]] = [[] for _ in loads]
    costs = [(cost([samples[i] for i in piece], width), piece) for _, piece in pieces(samples, max_tokens)]
    for load, piece in sorted(costs, key=lambda one: (-one[0], one[1])):  # the most expensive first
        rank = loads.index(min(loads))
        loads[rank] += load
        chosen[rank] += piece
    found = [[[own[i] for i in micro] for micro in split([samples[i] for i in own], max_tokens)] for own in chosen]
    most = max(map(len, found))
    return [micros + [[] for _ in range(most - len(micros))] for micros in found]


def cost(group: Sequence[Sample], width: int) -> float:
    """Of completions with one prompt, in tokens: those that are computed, and what attention costs as many as.

    A token costs about 2 x 12 H^2 operations a layer, one that attends to another 4 H: a pair is 1 / 6 H of a token.
    """
    prompt, lengths = len(group[0].prompt_ids), [len(sample.completion_ids) for sample in group]
    pairs = prompt**2 / 2 + sum(prompt * length + length**2 / 2 for length in lengths)
    return prompt + sum(lengths) + pairs / (6 * width)
