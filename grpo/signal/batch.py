"""From scored groups to the optimizer batch."""

from __future__ import annotations

from collections.abc import Sequence

from grpo.config import GRPOConfig
from grpo.losses import token_weights
from grpo.policy.update import TrainBatch
from grpo.rollout.scheduler import ScoredGroup
from grpo.types import Sample


def train_batch(
    step: int,
    groups: Sequence[ScoredGroup],
    advantages: Sequence[Sequence[float | None]],
    config: GRPOConfig,
    max_tokens: int,
    skips_zero_advantage: bool,
) -> TrainBatch:
    """The samples with a gradient, weighted by normalisers that count the others too."""
    samples, lengths = [], []
    for scored, advantages_G in zip(groups, advantages, strict=True):
        for completion, advantage in zip(scored.group.completions, advantages_G, strict=True):
            if advantage is None:
                continue
            masked = config.mask_truncated and completion.finish_reason == "length"
            lengths.append(0 if masked else len(completion.written))
            staleness = tuple(step - 1 - version for version in completion.versions)
            samples.append(Sample.of(scored.group.prompt, completion, advantage, staleness))
    weights = token_weights(config.normaliser_kind, lengths, max_tokens)
    trained = [i for i, s in enumerate(samples) if lengths[i] and (s.advantage or not skips_zero_advantage)]
    return TrainBatch([samples[i] for i in trained], [weights[i] for i in trained])
