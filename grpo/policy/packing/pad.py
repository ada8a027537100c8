"""Samples into padded micro-batches, for a model that cannot be packed: the plain way.

Rows are padded on the right, so under causal attention no trained token ever sees padding and no attention mask is
needed. Samples are sorted by length, so that little is padded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from grpo.policy.packing.pack import experts_of, flat
from grpo.types import PackedBatch, Sample


def padded_micro_batches(samples: Sequence[Sample], max_tokens: int) -> list[list[int]]:
    """Indices of the samples of each micro-batch, so that rows x longest row is at most `max_tokens`.

    A sample that is longer than `max_tokens` by itself gets a micro-batch of its own.
    """
    batches: list[list[int]] = []
    # Longest first: the largest allocation comes first, and running out of memory does too.
    for index in sorted(range(len(samples)), key=lambda i: (-samples[i].length, i)):
        if batches and (len(batches[-1]) + 1) * samples[batches[-1][0]].length <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def pad(samples: Sequence[Sample], weights: Sequence[float], device: torch.device | str = "cpu") -> PackedBatch:
    """One micro-batch. `weights[i]` is the loss weight of each trained token of `samples[i]`."""
    input_ids_RL = torch.zeros(len(samples), max(sample.length for sample in samples), dtype=torch.long)
    rows: list[int] = []
    cols: list[int] = []
    for row, sample in enumerate(samples):
        input_ids_RL[row, : sample.length] = torch.tensor(sample.prompt_ids + sample.completion_ids)
        before = sample.of_trained(range(len(sample.prompt_ids) - 1, sample.length - 1))  # it predicts the token
        rows += [row] * len(before)
        cols += before
    longest = input_ids_RL.shape[1]
    return PackedBatch(
        input_ids_RL=input_ids_RL.to(device),
        row_T=torch.tensor(rows, device=device),
        col_T=torch.tensor(cols, device=device),
        experts_NLK=experts_of([(sample, 0, longest) for sample in samples], device),
        **flat(samples, weights, device),
    )
