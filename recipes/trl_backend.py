"""A recipe through TRL's GRPOTrainer instead of ours (`train.backend: trl`), so that the two can be compared.

The same prompts in the same order, token for token; the same rewards, learning rate at each step, loss and normaliser;
samples by transformers' generate at the recipe's temperature. The run directory is the same, but for what resuming
needs. What differs, besides the trainer:

    weights      trained in `model.dtype` as they are, without fp32 masters: TRL's fastest way
    unscored     a completion whose reward is None gets advantage 0, and the normaliser counts it
    rollouts     no log-probs: generate gives none
    KL           TRL's reference and k3 estimate

Settings that TRL has no counterpart for are refused; those that only say how we run (the engine and its server, the
correction for an engine that computes other log-probs) are left out, and the run says so.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

os.environ.setdefault("DO_NOT_TRACK", "1")  # TRL reports its use to the hub
import trl
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, TrainerCallback

from eval.run import evaluate
from grpo.adapters import ServedWeights, add_adapter
from grpo.advantage import load_advantage
from grpo.config import ModelSettings, Settings
from grpo.curriculum import prompt_order
from grpo.metrics import RunRecorder
from grpo.model import load_model
from grpo.optim import learning_rate
from grpo.rollout.local import TransformersEngine
from grpo.rollout.scheduler import ScoredGroup
from grpo.rollout_metrics import means, rollout_metrics, rollout_rows
from grpo.scoring import earned, reward_inputs
from grpo.types import Completion, Group, Prompt, Sampling
from recipes.errors import run_async
from recipes.load import RecipeError
from recipes.schema import Recipe
from recipes.tasks import Task
from rewards import RewardSum
from rewards.types import TrainerState

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Our names of what TRL has too, as arguments of trl.GRPOConfig.
LOSSES: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo"},
    "bnpo": {"loss_type": "dapo"},  # TRL's bnpo is the mean of a micro-batch; ours of the batch, as its dapo
    "cispo": {"loss_type": "cispo"},
    "sapo": {"loss_type": "sapo"},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
}
ADVANTAGES = {"group_std": "group", "group_mean": "none", "batch_reward_std": "batch"}
ADAMW = {"weight_decay": "weight_decay", "eps": "adam_epsilon"}  # and betas

_SAME = {
    "train": "backend steps learning_rate schedule warmup_steps loss clip_low clip_high clip_max sapo_tau_positive "
    "sapo_tau_negative advantage kl_coef kl_corrected optimizer mask_truncated max_grad_norm gradient_checkpointing "
    "tokens_per_micro_batch threads gpus seed eval_every trackers",
    "rollout": "group_size prompts_per_step max_tokens max_prompt_tokens temperature max_sequences",
}
_LEFT_OUT = {
    "train": "correction correction_cap correction_floor stale_correction stale_cap stale_floor packing "
    "max_failed_share checkpoint_every keep_checkpoints",
    "rollout": "engine server",
}


# -- what TRL can do --------------------------------------------------------------------------------------------------


def refuse(recipe: Recipe, resume: bool) -> None:
    """Raises RecipeError, a line for each setting that TRL's trainer has no counterpart for."""
    found = list(_unsupported(recipe))
    if resume:
        found.append("--resume: a run of TRL's trainer cannot be resumed here; start it anew")
    if found:
        raise RecipeError("train.backend: trl cannot run this recipe\n" + "\n".join(f"  {line}" for line in found))


def _unsupported(recipe: Recipe) -> Iterator[str]:
    config = recipe.train
    for part, key, value, default in _changed(recipe):
        if key not in f"{_SAME[part]} {_LEFT_OUT[part]}".split():
            yield f"{part}.{key}: got {value!r}, TRL's trainer has no such setting; leave it at {default!r}"
    if config.loss not in LOSSES:
        yield f"train.loss: got {config.loss!r}, expected one of {', '.join(LOSSES)}"
    if config.loss == "cispo" and config.clip_low < 1:
        yield f"train.clip_low: got {config.clip_low}, TRL's cispo has no lower bound; use 1"
    if recipe.model.lora and recipe.model.lora.quantize:
        yield "model.lora.quantize: only our own trainer loads weights in 4 bits; leave it out"
    if config.advantage_kind not in ADVANTAGES:
        yield f"train.advantage: got {config.advantage_kind!r}, expected one of {', '.join(ADVANTAGES)}"
    for key in config.optimizer.keys() - {*ADAMW, "betas"}:
        yield f"train.optimizer.{key}: TRL's trainer takes betas, eps and weight_decay"


def left_out(recipe: Recipe) -> str:
    """One sentence about the settings that have no effect here."""
    keys = [f"{part}.{key}" for part, key, *_ in _changed(recipe) if key in _LEFT_OUT[part].split()]
    sentence = "backend trl: TRL's GRPOTrainer samples with transformers' generate, in turns with training"
    return sentence + (f"; without effect: {', '.join(keys)}" if keys else "")


def _changed(recipe: Recipe) -> Iterator[tuple[str, str, Any, Any]]:
    """(part, key, value, default) of each setting that is not at its default."""
    parts: dict[str, Settings] = {"train": recipe.train, "rollout": recipe.rollout}
    for part, settings in parts.items():
        defaults = type(settings)()
        for key in type(settings).model_fields:
            value, default = getattr(settings, key), getattr(defaults, key)
            if value != default:
                yield part, key, value, default


def micro_batch(completions: int, longest: int, max_tokens: int) -> int:
    """Completions of one forward: the largest divisor of `completions` whose padded rows hold at most `max_tokens`."""
    fitting = [n for n in range(1, completions + 1) if completions % n == 0 and n * longest <= max_tokens]
    return max(fitting, default=1)


def trl_config(recipe: Recipe, output: Path, longest_prompt: int) -> trl.GRPOConfig:
    """The recipe in TRL's words."""
    rollout, config = recipe.rollout, recipe.train
    completions = rollout.group_size * rollout.prompts_per_step
    rows = micro_batch(completions, longest_prompt + rollout.max_tokens, config.tokens_per_micro_batch)
    optimizer = {ADAMW[key]: value for key, value in config.optimizer.items() if key in ADAMW}
    if betas := config.optimizer.get("betas"):
        optimizer |= {"adam_beta1": betas[0], "adam_beta2": betas[1]}
    arguments = trl.GRPOConfig(
        output_dir=str(output / "trl"),
        max_steps=config.steps,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=completions // rows,
        num_generations=rollout.group_size,
        max_completion_length=rollout.max_tokens,
        temperature=rollout.temperature,
        learning_rate=config.learning_rate,
        optim="adamw_torch_fused",
        max_grad_norm=config.max_grad_norm,
        epsilon=config.clip_low,
        epsilon_high=config.clip_high + (config.loss == "cispo"),  # TRL's bounds the weight itself there
        delta=config.clip_max,
        sapo_temperature_pos=config.sapo_tau_positive,
        sapo_temperature_neg=config.sapo_tau_negative,
        scale_rewards=ADVANTAGES[config.advantage_kind],
        beta=config.kl_coef,
        use_bias_correction_kl=config.kl_corrected,
        mask_truncated_completions=config.mask_truncated,
        gradient_checkpointing=config.gradient_checkpointing,
        disable_dropout=not (recipe.model.lora and recipe.model.lora.dropout),
        seed=config.seed,
        shuffle_dataset=False,
        bf16=False,  # no autocast: the weights have the recipe's dtype themselves
        use_cpu=not torch.cuda.is_available(),
        report_to=[],
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        **LOSSES[config.loss],
        **optimizer,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # else transformers spreads the batch over every GPU in sight
    return arguments


# -- TRL's trainer ----------------------------------------------------------------------------------------------------


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


class _RecipeTrainer(TimedTrainer):
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
        order = prompt_order(recipe.train.curriculum, len(train), recipe.rollout.prompts_per_step, recipe.train.seed)
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

    def _make_trainer(self) -> _RecipeTrainer:
        model = load_model(self._model_settings, self._device)
        if self._model_settings.adapted:
            model = add_adapter(model, self._model_settings, self._recipe.train.seed)
        rows = [{"prompt": prompt.text, "position": i} for i, prompt in enumerate(self._asked)]
        longest = max(len(prompt.token_ids) for prompt in self._asked)
        return _RecipeTrainer(
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
        result = run_async(self._held_out_accuracy(step))
        return self._recorder.evaluation(step, result)

    async def _held_out_accuracy(self, step: int) -> dict[str, Any]:
        settings, rollout = self._recipe.eval, self._recipe.rollout
        engine = TransformersEngine(self._model_settings, self._tokenizer, rollout.max_sequences, self._device)
        await engine.start()
        try:
            await engine.update_weights(ServedWeights(self._model), step)
            sampling = Sampling(settings.max_tokens or rollout.max_tokens, settings.temperature)
            found = await evaluate(engine, self._held_out, self._task.grade, sampling, settings.samples)
            return dataclasses.asdict(found)
        finally:
            await engine.close()

    def _save(self, step: int) -> None:
        self._recorder.stage("writing the checkpoint")
        final = self._output / "checkpoints" / f"step-{step:06d}"
        partial = final.with_name(f".{final.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        self._model.save_pretrained(partial)
        self._tokenizer.save_pretrained(partial)
        partial.rename(final)


class StepEnd(TrainerCallback):
    """Calls `finish(step, seconds, logs)` after each step; `seconds` from its first micro-batch's fetch to its log."""

    def __init__(self, finish: Callable[[int, float, Mapping[str, Any]], None]) -> None:
        self._finish = finish

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._started = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, **of: Any) -> None:
        if "loss" in of["logs"]:  # the last log of a run has totals only
            self._finish(state.global_step, time.monotonic() - self._started, of["logs"])
