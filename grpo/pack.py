"""Samples into micro-batches.

Samples are sorted by length and cut into micro-batches of bounded padded size. Rows are padded on the
right, so under causal attention no trained token ever sees padding and no attention mask is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from grpo.types import PackedBatch, Sample


def micro_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices of samples, grouped so that rows x longest row is at most `max_tokens`.

    A sample that is longer than `max_tokens` by itself gets a micro-batch of its own.
    """
    batches: list[list[int]] = []
    # Longest first: the largest allocation comes first, and running out of memory does too.
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def pack(samples: Sequence[Sample], weights: Sequence[float], device: torch.device | str = "cpu") -> PackedBatch:
    """One micro-batch. `weights[i]` is the loss weight of each trained token of `samples[i]`."""
    longest = max(sample.length for sample in samples)
    input_ids_RL = torch.zeros(len(samples), longest, dtype=torch.long)
    rows: list[int] = []
    cols: list[int] = []
    targets: list[int] = []
    logprobs: list[float] = []
    advantages: list[float] = []
    token_weights: list[float] = []
    for row, (sample, weight) in enumerate(zip(samples, weights, strict=True)):
        ids = sample.prompt_ids + sample.completion_ids
        n = len(sample.completion_ids)
        input_ids_RL[row, : len(ids)] = torch.tensor(ids)
        rows += [row] * n
        cols += range(len(sample.prompt_ids) - 1, len(ids) - 1)  # the position before predicts the token
        targets += sample.completion_ids
        logprobs += sample.sampler_logprobs
        advantages += [sample.advantage] * n
        token_weights += [weight] * n
    return PackedBatch(
        input_ids_RL=input_ids_RL.to(device),
        row_T=torch.tensor(rows, device=device),
        col_T=torch.tensor(cols, device=device),
        target_T=torch.tensor(targets, device=device),
        sampler_logprobs_T=torch.tensor(logprobs, device=device),
        advantage_T=torch.tensor(advantages, device=device),
        weight_T=torch.tensor(token_weights, device=device),
    )
