"""A recipe through TRL's GRPOTrainer instead of ours (`train.backend: trl`), so that the two can be compared.

The same prompts in the same order, token for token; the same rewards, learning rate at each step, loss and normaliser;
samples by transformers' generate at the recipe's temperature. The run directory is the same, but for what resuming
needs. What differs, besides the trainer:

    weights      trained in `model.dtype` as they are, without fp32 masters: TRL's fastest way
    unscored     a completion whose reward is None gets advantage 0, and the normaliser counts it
    rollouts     no log-probs: generate gives none
    KL           TRL's reference and k3 estimate
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from datasets import Dataset

from eval.ask.run import evaluate
from grpo.config import ModelSettings
from grpo.policy.adapters import ServedWeights, add_adapter
from grpo.policy.load import load_model
from grpo.policy.optim import learning_rate
from grpo.policy.policy import Policy
from grpo.record.atomic import write_folder
from grpo.record.recorder import RunRecorder
from grpo.record.rows import means, rollout_metrics, rollout_rows
from grpo.rollout.local import TransformersEngine
from grpo.rollout.scheduler import ScoredGroup
from grpo.signal.advantage import load_advantage
from grpo.signal.curriculum import prompt_order
from grpo.signal.scoring import earned, reward_inputs
from grpo.types import Completion, Group, Prompt, Sampling
from recipes.errors import run_async
from recipes.jobs.trl_settings import left_out, trl_config
from recipes.jobs.trl_trainer import RecipeTrainer, StepEnd
from recipes.schema.recipe import Recipe
from recipes.tasks import Task
from rewards import RewardSum
from rewards.types import TrainerState

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class TRLRun:
    """One run of a recipe through TRL; `train` once."""

    def __init__(
        self,
        recipe: Recipe,
        model: ModelSettings,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        train: Sequence[Prompt],
        held_out: Sequence[Prompt],
        rewards: RewardSum,
        recorder: RunRecorder,
        output: Path,
    ) -> None:
        self._recipe, self._model_settings, self._tokenizer = recipe, model, tokenizer
        self._task, self._held_out, self._rewards = task, held_out, rewards
        self._recorder, self._output = recorder, output
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        columns = [prompt.columns for prompt in train]
        order = prompt_order(recipe.train.curriculum, columns, recipe.rollout.prompts_per_step, recipe.train.seed)
        asked = recipe.train.steps * recipe.rollout.prompts_per_step
        self._asked = [train[order.at(position)] for position in range(asked)]
        self._groups: list[ScoredGroup] = []  # of the step that is being trained
        self._logged: list[tuple[str, float]] = []

    def train(self) -> dict[str, Any]:
        """Returns the summary, as ours does."""
        started = time.monotonic()
        if self._recipe.train.threads:
            torch.set_num_threads(self._recipe.train.threads)
        self._recorder.note(left_out(self._recipe))
        self._recorder.stage("loading the model")
        self._trainer = self._make_trainer()
        self._model = cast("PreTrainedModel", self._trainer.model)
        steps = self._recipe.train.steps
        try:
            before = self._evaluate(0)
            self._recorder.stage("step 1")
            self._trainer.train()
            after = self._evaluate(steps)
            self._save(steps)
        finally:
            self._rewards.close()
        return {
            "before": before,
            "after": after,
            "steps": steps,
            "wall_seconds": time.monotonic() - started,
            "engine": "transformers",
            "backend": "trl",
            "seed": self._recipe.train.seed,
            "control": self._recipe.train.control,
        }

    def _make_trainer(self) -> RecipeTrainer:
        model = load_model(self._model_settings, self._device)
        if self._model_settings.adapted:
            model = add_adapter(model, self._model_settings, self._recipe.train.seed)
        rows = [{"prompt": prompt.text, "position": i} for i, prompt in enumerate(self._asked)]
        longest = max(len(prompt.token_ids) for prompt in self._asked)
        return RecipeTrainer(
            self._recipe,
            self._asked,
            model=model,
            reward_funcs=self._reward,
            args=trl_config(self._recipe, self._output, longest),
            train_dataset=Dataset.from_list(rows),
            processing_class=self._tokenizer,
            callbacks=[StepEnd(self._finish_step)],
        )

    def _reward(
        self,
        completions: list[str],
        completion_ids: list[list[int]],
        position: list[int],
        trainer_state: Any,
        **_: Any,
    ) -> list[float | None]:
        """The weighted sum of the recipe's rewards, in TRL's signature. `position`: which prompt of the run."""
        size = self._recipe.rollout.group_size
        done = trainer_state.global_step
        state = TrainerState(done, trainer_state.max_steps, trainer_state.epoch)
        self._groups, self._logged = [], []
        for start in range(0, len(completions), size):
            made = zip(completions[start : start + size], completion_ids[start : start + size], strict=True)
            group = Group(self._asked[position[start]], tuple(self._completion(text, ids, done) for text, ids in made))
            texts, columns = reward_inputs(group.prompt, group.completions)
            scored = self._rewards.score(texts, columns, state, lambda name, value: self._logged.append((name, value)))
            self._groups.append(ScoredGroup(group, tuple(scored)))
        return [reward.value for scored_group in self._groups for reward in scored_group.rewards]

    def _completion(self, text: str, ids: list[int], version: int) -> Completion:
        n, stopped = len(ids), ids[-1] in self._trainer.eos_token_ids
        return Completion(
            tuple(ids), (float("nan"),) * n, (version,) * n, text, finish_reason="stop" if stopped else "length"
        )

    def _finish_step(self, step: int, seconds: float, logs: Mapping[str, Any]) -> None:
        config, rollout = self._recipe.train, self._recipe.rollout
        # For the record; TRL computes its own.
        advantages = load_advantage(config.advantage_kind)(
            [earned(scored.rewards, self._rewards.weights) for scored in self._groups]
        )
        parts = self._trainer.take_seconds()
        sampled = rollout_metrics(self._groups, advantages, rollout.prompts_per_step * rollout.group_size)
        metrics = {
            **sampled,
            **means("logged", self._logged),
            "loss": logs["loss"],
            "grad_norm": logs["grad_norm"],
            "entropy": logs["entropy"],
            "kl": logs.get("kl", 0.0),
            "clipped": logs.get("clip_ratio/region_mean", 0.0),
            "trained_tokens": sampled["tokens"],  # also those without advantage
            "learning_rate": learning_rate(config, step),
            **{f"seconds_{part}": value for part, value in parts.items()},
            "seconds_rest": seconds - parts["wait"] - parts["reward"] - parts["train"],
            "seconds": seconds,
            "tokens_per_second": sampled["tokens"] / seconds,
        }
        self._recorder.rollouts(step, rollout_rows(step, self._groups, advantages))
        self._recorder.step(step, metrics)
        if config.eval_every and step % config.eval_every == 0 and step < config.steps:
            self._evaluate(step)

    def _evaluate(self, step: int) -> dict[str, Any]:
        """By our evaluator and in-process engine, with a copy of the weights."""
        self._recorder.stage(f"measuring held-out accuracy at step {step}")
        of = (self._recipe, self._model_settings, self._tokenizer, self._device, self._task, self._held_out)
        return self._recorder.evaluation(step, run_async(held_out_accuracy(*of, self._model, step)))

    def _save(self, step: int) -> None:
        self._recorder.stage("writing the checkpoint")

        def write(folder: Path) -> None:
            self._model.save_pretrained(folder)
            self._tokenizer.save_pretrained(folder)

        write_folder(self._output / "checkpoints" / f"step-{step:06d}", write)


async def held_out_accuracy(
    recipe: Recipe,
    model_settings: ModelSettings,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    task: Task,
    held_out: Sequence[Prompt],
    model: PreTrainedModel,
    step: int,
) -> dict[str, Any]:
    """Of `model`'s weights after `step`."""
    settings, rollout = recipe.eval, recipe.rollout
    engine = TransformersEngine(model_settings, tokenizer, rollout.max_sequences, device)
    await engine.start()
    try:
        await engine.update_weights(ServedWeights(Policy(model)), step)
        sampling = Sampling(settings.max_tokens or rollout.max_tokens, settings.temperature)
        return dataclasses.asdict(await evaluate(engine, held_out, task.grade, sampling, settings.samples))
    finally:
        await engine.close()
