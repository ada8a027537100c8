"""`model.rope_scaling`: longer chains than the checkpoint was trained for. grpo/policy/rope.py applies it.

linear    angles m theta_i / factor                                             (arXiv 2306.15595)
dynamic   theta' = theta (factor^2 - factor + 1)^(d / (d - 2))                  (NTK-aware, at the full length)
yarn      low frequencies divided, high ones kept, scores scaled                (arXiv 2309.00071)
llama3    as yarn, by two wavelengths, scores as they are                       (arXiv 2407.21783)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0)]
OF_KIND = {
    "yarn": ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
    "llama3": ("low_freq_factor", "high_freq_factor"),
}
ADAPTED_POSITIONS = (
    "rope_scaling: the folder of an adapter does not say how positions are scaled, so whoever puts it on its base "
    "would compute other log-probs; train the weights themselves, or leave it out"
)
COMMON = ("rope_type", "factor", "original_max_position_embeddings")


class RopeScaling(BaseModel):
    """The names are transformers'. Example: RopeScaling(rope_type="yarn", factor=2.0)"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rope_type: Literal["linear", "dynamic", "yarn", "llama3"]
    factor: Annotated[float, Field(gt=1)]  # new length over original length
    original_max_position_embeddings: Annotated[int, Field(gt=0)] | None = None  # None: what config.json says
    attention_factor: Positive | None = None  # yarn; None: 0.1 ln(factor) + 1
    beta_fast: Positive | None = None  # yarn: rotations over the original length from which a frequency is kept
    beta_slow: Positive | None = None  # yarn: up to which it is divided
    mscale: Positive | None = None  # yarn, of DeepSeek's models
    mscale_all_dim: Positive | None = None
    low_freq_factor: Positive | None = None  # llama3: 1
    high_freq_factor: Positive | None = None  # llama3: 4

    @model_validator(mode="after")
    def _of_its_kind(self) -> RopeScaling:
        if found := list(self._conflicts()):
            raise ValueError("\n".join(found))
        return self

    def _conflicts(self) -> Iterator[str]:
        own = OF_KIND.get(self.rope_type, ())
        for name in sorted(set(self.given) - set(COMMON) - set(own)):
            yield f"{name}: rope_type: {self.rope_type} has no such number; leave it out"
        low, high = self.low_freq_factor or 1.0, self.high_freq_factor or 4.0
        if self.rope_type == "llama3" and low >= high:
            yield f"high_freq_factor: got {high:g}, expected more than low_freq_factor ({low:g})"
        fast, slow = self.beta_fast or 32.0, self.beta_slow or 1.0
        if self.rope_type == "yarn" and slow >= fast:
            yield f"beta_fast: got {fast:g}, expected more than beta_slow ({slow:g})"

    @property
    def given(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)
