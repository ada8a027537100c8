"""`rollout.diffusion`: how a masked diffusion language model writes, and what losses see of it.

It writes by grpo/rollout/diffusion.py and is trained by grpo/policy/diffusion.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
D1_MASKING = 0.15  # of d1, arXiv 2504.12216


class DiffusionSettings(BaseModel):
    """Example: DiffusionSettings(block_length=32, tokens_per_pass=2)"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    block_length: Positive | None = None  # blocks are written from left to right; None: one block of max_tokens
    tokens_per_pass: Positive = 1  # drawn at once, independently of each other
    order: Literal["random", "confidence"] = "random"  # within a block
    likelihood: Literal["exact", "one_pass"] = "exact"  # that losses see; one_pass: d1's estimate
    prompt_masking: Annotated[float, Field(ge=0, lt=1)] = D1_MASKING  # one_pass: share of the prompt that is hidden
    mask_token: str | None = None  # None: what the tokenizer, or the model's config.json, says

    @model_validator(mode="after")
    def _coherent(self) -> DiffusionSettings:
        if self.order == "confidence" and self.exact:
            raise ValueError(
                "likelihood: exact needs an order that does not depend on the policy. With order: confidence the order "
                "is a part of the sample whose probability is not known, so that no ratio is exact; use order: random, "
                "or likelihood: one_pass"
            )
        if self.exact and self.prompt_masking != D1_MASKING:
            raise ValueError("prompt_masking: likelihood: exact hides nothing of the prompt; leave it out")
        return self

    @property
    def exact(self) -> bool:
        """Whether losses see the log-probs that were sampled with."""
        return self.likelihood == "exact"

    def passes(self, max_tokens: int) -> int:
        """Forwards of the model that write a completion."""
        block = self.block_length or max_tokens
        return max_tokens // block * -(-block // self.tokens_per_pass)


def diffusion_conflicts(settings: DiffusionSettings, engine: str, max_tokens: int) -> Iterator[str]:
    if engine != "diffusion" and settings != DiffusionSettings():
        yield f"diffusion: engine: {engine} has no use for it; use engine: diffusion, or leave it out"
    block = settings.block_length
    if block and max_tokens % block:
        yield f"diffusion.block_length: got {block}, expected a divisor of max_tokens ({max_tokens})"
    if settings.tokens_per_pass > (block or max_tokens):
        most = f"block_length ({block})" if block else f"max_tokens ({max_tokens})"
        yield f"diffusion.tokens_per_pass: got {settings.tokens_per_pass}, expected at most {most}"


def estimate_conflicts(settings: DiffusionSettings, train: Any) -> Iterator[str]:
    """Of `train`, a GRPOConfig, what compares the estimate with log-probs that it is none of."""
    if settings.exact:
        return
    estimate = "rollout.diffusion.likelihood: one_pass estimates"
    if train.correction != "none":
        yield (
            f"correction: got {train.correction}, which compares the trainer's log-probs with the sampler's; "
            f"{estimate} others than were sampled with; use correction: none"
        )
    if train.kl_coef and train.kl_place == "reward":
        yield f"kl_place: reward takes the sampler's log-probs, and {estimate} others; use kl_place: loss"
