"""TRL's GRPOTrainer with what a recipe asks of it: the seconds of its parts, our prompts' tokens, our learning rate."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

os.environ.setdefault("DO_NOT_TRACK", "1")  # TRL reports its use to the hub
import trl
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, TrainerCallback

from grpo.optim import learning_rate
from grpo.types import Prompt
from recipes.schema import Recipe

if TYPE_CHECKING:
    from torch.optim import Optimizer


class TimedTrainer(trl.GRPOTrainer):
    """TRL's trainer with the seconds of its parts, which `take_seconds` hands out and starts anew.

    wait: sampling; reward; forward and backward; optimizer: clip and step. The names are those of grpo/metrics.py.
    """

    def __init__(self, **arguments: Any) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        super().__init__(**arguments)
        self.remove_callback(PrinterCallback)

    def take_seconds(self) -> dict[str, float]:
        taken = dict(self._seconds)
        prepared, step = taken.pop("prepare", 0.0), taken.pop("step", 0.0)
        taken["backward"] = step - prepared - taken.get("forward", 0.0)
        taken["train"] = step - prepared + taken.get("optimizer", 0.0)
        self._seconds.clear()
        return taken

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._seconds[part] += time.monotonic() - started

    def _generate(self, *args: Any) -> Any:
        with self._timed("wait"):
            return super()._generate(*args)

    def _calculate_rewards(self, *args: Any) -> Any:
        with self._timed("reward"):
            return super()._calculate_rewards(*args)

    def _prepare_inputs(self, *args: Any) -> Any:
        with self._timed("prepare"):
            return super()._prepare_inputs(*args)

    def _compute_loss(self, *args: Any) -> Any:
        with self._timed("forward"):
            return super()._compute_loss(*args)

    def training_step(self, *args: Any) -> Any:
        with self._timed("step"):
            loss = super().training_step(*args)
        self._stepped = time.monotonic()
        return loss

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        # The only thing that happens between the last micro-batch and here.
        self._seconds["optimizer"] += time.monotonic() - self._stepped
        super()._maybe_log_save_evaluate(*args, **kwargs)


class RecipeTrainer(TimedTrainer):
    """With our token ids of each prompt, and our learning rate of each step."""

    def __init__(self, recipe: Recipe, prompts: Sequence[Prompt], **arguments: Any) -> None:
        self._config = recipe.train
        self._prompt_ids = {prompt.text: list(prompt.token_ids) for prompt in prompts}
        super().__init__(**arguments)

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self._prompt_ids[text] for text in prompts], None, {}

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        config = self._config

        def share(done: int) -> float:
            return learning_rate(config, done + 1) / config.learning_rate

        self.lr_scheduler = LambdaLR(optimizer or cast("Optimizer", self.optimizer), share)
        return self.lr_scheduler


class StepEnd(TrainerCallback):
    """Calls `finish(step, seconds, logs)` after each step; `seconds` from its first micro-batch's fetch to its log."""

    def __init__(self, finish: Callable[[int, float, Mapping[str, Any]], None]) -> None:
        self._finish = finish

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._started = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, **of: Any) -> None:
        if "loss" in of["logs"]:  # the last log of a run has totals only
            self._finish(state.global_step, time.monotonic() - self._started, of["logs"])
