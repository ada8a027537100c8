"""Settings of an evaluation: the part of a recipe that `eval` owns."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]


class EvalSettings(BaseModel):
    """How held-out problems are answered before, during and after training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    problems: Positive = 200  # of the held-out split; all of them where it has fewer
    samples: Positive = 1  # completions a problem
    temperature: Annotated[float, Field(ge=0)] = 0.0  # 0: greedy
    max_tokens: Positive | None = None  # None: the rollout's

    @model_validator(mode="after")
    def _greedy_once(self) -> EvalSettings:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"samples: {self.samples} greedy completions would all be the same; "
                "use samples: 1, or a temperature above 0"
            )
        return self
