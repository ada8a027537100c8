"""The recipe of a supervised run: `kind: sft`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from eval.config import EvalSettings
from grpo.config import ModelSettings, RolloutSettings, Settings
from grpo.sft.config import SFTConfig, SFTData
from recipes.schema.recipe import Recipe, TaskSettings
from rewards import RewardSettings


class SFTRecipe(Settings):
    """One supervised run on `data`. With a `task`, its held-out accuracy is measured before and after."""

    kind: Literal["sft"]
    model: ModelSettings
    data: list[SFTData] = Field(min_length=1)
    task: TaskSettings | None = None
    rollout: RolloutSettings = Field(default_factory=RolloutSettings)  # how the task's problems are answered
    train: SFTConfig = Field(default_factory=SFTConfig)
    eval: EvalSettings = Field(default_factory=EvalSettings)

    @model_validator(mode="after")
    def _coherent(self) -> SFTRecipe:
        if found := list(_conflicts(self)):
            raise ValueError("\n".join(found))
        return self

    def for_update(self, steps: int) -> Recipe:
        """The run as everything that it has in common with GRPO takes it: learner, engine, held-out problems."""
        lora = self.model.lora and self.model.lora.model_copy(update={"sync": "merged"})
        return Recipe(
            model=self.model.model_copy(update={"lora": lora}),
            task=self.task or TaskSettings.model_validate({"name": "arithmetic"}),
            rewards=[RewardSettings(name="accuracy", args={"read": self.task.read} if self.task else {})],
            rollout=self.rollout.model_copy(update={"temperature": 1.0, "max_staleness": 0, "routing_replay": False}),
            train=self.train.for_update(steps),
            eval=self.eval,
        )


def _conflicts(recipe: SFTRecipe) -> Iterator[str]:
    whole = [source for source in recipe.data if source.share is None]
    if not whole:
        yield "data: every source has a share; leave it out of one, which is taken whole"
    if sum(source.share or 0 for source in recipe.data) >= 1:
        yield "data: the shares add up to 1 or more; what is taken whole needs a part"
    asked = recipe.eval.max_tokens or 0
    if asked > recipe.rollout.max_tokens and recipe.rollout.engine == "vllm":
        yield (
            f"eval.max_tokens: got {asked}, expected at most rollout.max_tokens "
            f"({recipe.rollout.max_tokens}): the server's context is made for that"
        )
    if recipe.rollout.masked:
        yield "rollout.engine: examples train causal models alone; engine: diffusion is for kind: grpo"
    if recipe.task and recipe.task.environment:
        yield "task.environment: a supervised run measures one reply; leave it out"
    if recipe.rollout.server.urls:
        yield "rollout.server.urls: a supervised run sends no weights while it trains; use a server of its own"
