"""Samples into micro-batches without padding, a prompt once for all of its completions.

A micro-batch is one row: prompt, completion, completion, ..., the next prompt, and so on (see attention.py).
A completion's last token predicts nothing and is left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from grpo.policy.packing.layout import PackedGroup, lay_out
from grpo.types import PackedBatch, Sample


def packed_micro_batches(samples: Sequence[Sample], max_tokens: int) -> list[list[int]]:
    """Indices of the samples of each micro-batch: as few as hold `max_tokens` each, of about one size.

    Samples with one prompt stay together, unless they are more than `max_tokens` by themselves: then each part
    holds the prompt. A sample that is longer than `max_tokens` gets a micro-batch of its own.
    """
    parts = sorted(pieces(samples, max_tokens), key=lambda piece: (-piece[0], piece[1]))
    least = -(-sum(tokens for tokens, _ in parts) // max_tokens)
    loads = [0] * least
    batches: list[list[int]] = [[] for _ in loads]
    for tokens, indices in parts:  # the largest first, each to the micro-batch with the least
        i = loads.index(min(loads))
        if loads[i] and loads[i] + tokens > max_tokens:
            i = len(loads)
            loads.append(0)
            batches.append([])
        loads[i] += tokens
        batches[i] += indices
    return [batch for batch in batches if batch]


def pieces(samples: Sequence[Sample], max_tokens: int) -> Iterator[tuple[int, list[int]]]:
    """(tokens, indices) of what cannot be divided further without computing a prompt twice."""
    for indices in _by_prompt(samples).values():
        prompt = len(samples[indices[0]].prompt_ids)
        piece: list[int] = []
        tokens = prompt
        for i in indices:
            extra = len(samples[i].completion_ids) - 1
            if piece and tokens + extra > max_tokens:
                yield tokens, piece
                piece, tokens = [], prompt
            piece.append(i)
            tokens += extra
        yield tokens, piece


def _by_prompt(samples: Sequence[Sample]) -> dict[tuple[int, ...], list[int]]:
    found: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, sample in enumerate(samples):
        found[sample.prompt_ids].append(i)
    return found


def pack(samples: Sequence[Sample], weights: Sequence[float], device: torch.device | str = "cpu") -> PackedBatch:
    """One micro-batch. `weights[i]` is the loss weight of each trained token of `samples[i]`."""
    ids: list[int] = []
    cols: list[int] = []
    groups: list[PackedGroup] = []
    order: list[int] = []
    routed: list[tuple[Sample, int, int]] = []
    for prompt_ids, indices in _by_prompt(samples).items():
        start = len(ids)
        ids += prompt_ids
        whole = next((samples[i] for i in indices if samples[i].experts is not None), samples[indices[0]])
        routed.append((whole, 0, len(prompt_ids)))
        middle, ends = len(ids), []
        for i in indices:
            first, inputs = len(ids), samples[i].completion_ids[:-1]
            ids += inputs
            routed.append((samples[i], len(prompt_ids), samples[i].length - 1))
            cols += samples[i].of_trained([middle - 1, *range(first, len(ids))])  # the position before predicts it
            if inputs:
                ends.append(len(ids))
        groups.append(PackedGroup(start, middle, tuple(ends)))
        order += indices
    col_T = torch.tensor(cols, device=device)
    return PackedBatch(
        input_ids_RL=torch.tensor([ids], device=device),
        row_T=torch.zeros_like(col_T),
        col_T=col_T,
        layout=lay_out(groups, device),
        experts_NLK=experts_of(routed, device),
        **flat([samples[i] for i in order], [weights[i] for i in order], device),
    )


def experts_of(parts: Sequence[tuple[Sample, int, int]], device: torch.device | str) -> torch.Tensor | None:
    """(N, L, K) of the tokens from start to end of each (sample, start, end), -1 of those that have none.

    None if no sample has any: the routers choose.
    """
    known = next((sample.experts for sample, _, _ in parts if sample.experts is not None), None)
    if known is None:
        return None
    found = []
    for sample, start, end in parts:
        part = np.full((end - start, *known.shape[1:]), -1, dtype=np.int64)
        if sample.experts is not None:
            part[: len(sample.experts) - start] = sample.experts[start:end]
        found.append(part)
    return torch.from_numpy(np.concatenate(found)).to(device)


def flat(samples: Sequence[Sample], weights: Sequence[float], device: torch.device | str) -> dict[str, Any]:
    """The fields of a PackedBatch that hold one entry a trained token, sample after sample."""
    targets = [sample.of_trained(sample.completion_ids) for sample in samples]
    sampler = [logprob for sample in samples for logprob in sample.of_trained(sample.sampler_logprobs)]
    lengths = torch.tensor([len(target) for target in targets])

    def per_token(values: Sequence[float] | range) -> torch.Tensor:
        return torch.tensor(values).repeat_interleave(lengths).to(device)

    staleness_T = None
    if any(sample.staleness for sample in samples):
        stale = [step for s in samples for step in s.of_trained(s.staleness or (0,) * len(s.completion_ids))]
        staleness_T = torch.tensor(stale, device=device)
    return {
        "target_T": torch.tensor([token for target in targets for token in target], device=device),
        "sequence_T": per_token(range(len(samples))),
        "n_sequences": len(samples),
        "sampler_logprobs_T": torch.tensor(sampler, device=device),
        "advantage_T": per_token([sample.advantage for sample in samples]),
        "weight_T": per_token(weights),
        "staleness_T": staleness_T,
    }
