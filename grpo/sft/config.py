"""Settings of supervised fine-tuning, and of the data that it learns from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from grpo.config import GRPOConfig, Positive, Settings, TrainSettings
from grpo.conflicts import process_conflicts

Share = Annotated[float, Field(gt=0, lt=1)]
COLUMNS = ("messages", "prompt", "completion", "text")


class ColumnNames(Settings):
    """The dataset's columns: `messages`, or `prompt` and `completion`, or `text`."""

    messages: str | None = None  # a conversation: [{role: user, content: ...}, {role: assistant, content: ...}, ...]
    prompt: str | None = None  # text, or the conversation before the completion
    completion: str | None = None  # text, or the messages after the prompt
    text: str | None = None  # a document, all of which is learned

    @model_validator(mode="after")
    def _one_kind(self) -> ColumnNames:
        given = {name for name in COLUMNS if getattr(self, name)}
        if given not in ({"messages"}, {"prompt", "completion"}, {"text"}):
            raise ValueError(
                f"got {', '.join(sorted(given)) or 'none'}, expected messages, or prompt and completion, or text"
            )
        return self


class SFTData(Settings):
    """One source of examples."""

    dataset: str  # a .jsonl or .parquet file, a folder of them, or a hub id
    subset: str | None = None  # the hub's configuration name
    split: str = "train"
    columns: ColumnNames | None = None  # None: by the names of the columns
    share: Share | None = None  # of all examples; None: all that the source has
    limit: Positive | None = None  # examples taken, in the order of the source


class SFTConfig(TrainSettings):
    """Training. Defaults are those of a full fine-tuning; with an adapter, ten times the learning rate is usual."""

    # Optimizer steps; None: by epochs. The base has a number always, which a step is told in the end (for_update).
    steps: Positive | None = None  # type: ignore[assignment]
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    epochs: Annotated[float, Field(gt=0)] | None = None  # passes over the examples; None: 1, unless steps are given
    batch_size: Positive = 16  # examples of an optimizer step
    max_length: Positive = 1024  # tokens of an example
    longer: Literal["drop", "cut"] = "drop"  # what is done with a longer one
    loss_on: Literal["assistant", "all"] = "assistant"  # assistant: of a prompt's completion, of a text all
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.02  # share of the examples, by content, that is only measured
    chat_template: str | None = None  # file of a template with {% generation %} marks; None: the tokenizer's

    def n_steps(self, examples: int) -> int:
        """Optimizer steps over so many examples."""
        return self.steps or max(1, math.ceil((self.epochs or 1.0) * examples / self.batch_size))

    def for_update(self, steps: int) -> GRPOConfig:
        """What the training step that GRPO shares is told."""
        shared = {name: getattr(self, name) for name in TrainSettings.model_fields}
        return GRPOConfig(**shared | {"steps": steps})

    @model_validator(mode="after")
    def _coherent(self) -> SFTConfig:
        if found := list(_conflicts(self)):
            raise ValueError("\n".join(found))
        return self


def _conflicts(config: SFTConfig) -> Iterator[str]:
    yield from process_conflicts(config)
    if config.steps is not None and config.epochs is not None:
        yield "epochs: steps say how long to train, too; keep one of them"
