"""The recipe of rejection sampling: `kind: sample`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from grpo.config import ModelSettings, NonNegative, Positive, RolloutSettings, Settings
from recipes.schema.recipe import Recipe, TaskSettings
from rewards import RewardSettings
from rewards.builtin.language import language_consistency

Share = Annotated[float, Field(ge=0, le=1)]


class SampleSettings(Settings):
    """How many completions are drawn, and which of them are kept."""

    samples: Positive = 8  # completions of each problem
    problems: Positive | None = None  # the first so many of the task; None: all
    per_problem: Positive = 1  # kept of a problem, those that were drawn first
    right: bool = True  # only those that the task's verifier finds right
    min_tokens: NonNegative = 0  # of the completion
    max_tokens: Positive | None = None  # of the completion; one that was cut off at rollout.max_tokens is never kept
    max_repetition: Share = 0.5  # of its groups of three words, those that came before (rewards/builtin/repetition.py)
    language: str | None = None  # ISO 639-1 code of what it must be written in; None: any
    min_consistency: Share = 0.9  # share of the words that must be in that language
    apart_from: list[str] = Field(default_factory=list)  # benchmarks whose problems, or parts of them, are left out
    data_dir: str | None = None  # a folder of those benchmarks; None: from the hub
    ngram: Positive = 13  # words that a problem has in common with one of a benchmark's
    format: Literal["auto", "messages", "prompt"] = "auto"  # auto: messages where the template is a chat's
    seed: int = 0

    @field_validator("language")
    @classmethod
    def _known(cls, language: str | None) -> str | None:
        if language is not None:
            language_consistency(["words"], language)  # names those that there are
        return language


class SampleRecipe(Settings):
    """Verified samples of a model, kept by rules, as a dataset to train on."""

    kind: Literal["sample"]
    model: ModelSettings
    task: TaskSettings
    sample: SampleSettings = Field(default_factory=SampleSettings)
    rollout: RolloutSettings = Field(default_factory=RolloutSettings)

    @field_validator("task")
    @classmethod
    def _one_reply(cls, task: TaskSettings) -> TaskSettings:
        if task.environment:
            raise ValueError("environment: what is kept to train on is one reply; leave it out")
        return task

    def for_sampling(self) -> Recipe:
        """The run as the engine and the task take it; nothing trains, and an adapter is not drawn from."""
        model = self.model.model_copy(update={"lora": None, "adapter": None})
        return Recipe(
            model=model,
            task=self.task.model_copy(update={"problems": None}),
            rewards=[RewardSettings(name="accuracy", args={"read": self.task.read} if self.task.read else {})],
            rollout=self.rollout.model_copy(update={"max_staleness": 0, "routing_replay": False}),
        )
