"""A supervised recipe through TRL's SFTTrainer instead of ours (`train.backend: trl`), so that the two can be compared.

The same examples in the same batches, token for token, with the same tokens learned; the same learning rate at each
step, optimizer and clipping. The run directory is the same, but for what resuming needs. What differs:

    weights      trained in `model.dtype` as they are, without fp32 masters: TRL's fastest way
    rows         padded, one example a row
    entropy      the mean of the micro-batches' means
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from datasets import Dataset

os.environ.setdefault("DO_NOT_TRACK", "1")  # TRL reports its use to the hub
import trl
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback

from grpo.config import ModelSettings
from grpo.policy.adapters import add_adapter
from grpo.policy.load import load_model
from grpo.policy.optim import learning_rate
from grpo.record.atomic import write_folder
from grpo.record.recorder import RunRecorder
from grpo.sft.examples import Example
from grpo.sft.trainer import example_at
from grpo.types import Prompt
from recipes.errors import run_async
from recipes.jobs.trl import held_out_accuracy
from recipes.jobs.trl_settings import ADAMW, adamw_arguments, micro_batch
from recipes.jobs.trl_trainer import StepEnd
from recipes.schema.load import RecipeError
from recipes.schema.sft import SFTRecipe
from recipes.tasks import Task

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SAME = {  # what TRL has too, and what the examples were read by
    *("backend", "steps", "epochs", "learning_rate", "schedule", "warmup_steps", "optimizer", "max_grad_norm"),
    *("gradient_checkpointing", "tokens_per_micro_batch", "threads", "seed", "eval_every", "trackers", "batch_size"),
    *("max_length", "longer", "loss_on", "held_out", "chat_template"),
}
_LEFT_OUT = {"packing", "checkpoint_every", "keep_checkpoints", "max_restarts"}
IGNORED = -100  # label of a token that is not learned


def refuse_sft(recipe: SFTRecipe, resume: bool) -> None:
    """Raises RecipeError, a line for each setting that TRL's trainer has no counterpart for."""
    found = list(_unsupported(recipe))
    if resume:
        found.append("--resume: a run of TRL's trainer cannot be resumed here; start it anew")
    if found:
        raise RecipeError("train.backend: trl cannot run this recipe\n" + "\n".join(f"  {line}" for line in found))


def _unsupported(recipe: SFTRecipe) -> Iterator[str]:
    for key, value, default in _changed(recipe):
        if key not in _SAME | _LEFT_OUT:
            yield f"train.{key}: got {value!r}, TRL's trainer has no such setting here; leave it at {default!r}"
    if recipe.model.lora and recipe.model.lora.quantize:
        yield "model.lora.quantize: only our own trainer loads weights in 4 bits; leave it out"
    if recipe.model.prompted:
        yield "model.adapter: only our own trainer trains vectors before the prompt; leave it out"
    for key in recipe.train.optimizer.keys() - {*ADAMW, "betas"}:
        yield f"train.optimizer.{key}: TRL's trainer takes betas, eps and weight_decay"


def _changed(recipe: SFTRecipe) -> Iterator[tuple[str, Any, Any]]:
    """(key, value, default) of each setting of training that is not at its default."""
    config, defaults = recipe.train, type(recipe.train)()
    for key in type(config).model_fields:
        if getattr(config, key) != getattr(defaults, key):
            yield key, getattr(config, key), getattr(defaults, key)


class TRLSupervisedRun:
    """One run of a supervised recipe through TRL; `train` once.

    Args:
        model: of `recipe.for_update`, with its built-in name resolved.
        task, prompts: what is measured before and after; None and [] without a task.
    """

    def __init__(
        self,
        recipe: SFTRecipe,
        steps: int,
        model: ModelSettings,
        tokenizer: PreTrainedTokenizerBase,
        examples: Sequence[Example],
        held_out: Sequence[Example],
        task: Task | None,
        prompts: Sequence[Prompt],
        recorder: RunRecorder,
        output: Path,
    ) -> None:
        self._recipe, self._steps, self._model_settings, self._tokenizer = recipe, steps, model, tokenizer
        self._examples, self._held_out = examples, held_out
        self._task, self._prompts, self._recorder, self._output = task, prompts, recorder, output
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        size = recipe.train.batch_size
        self._batches = [example_at(examples, recipe.train.seed, place) for place in range(steps * size)]

    def train(self) -> dict[str, Any]:
        """Returns the summary, as ours does."""
        started = time.monotonic()
        if self._recipe.train.threads:
            torch.set_num_threads(self._recipe.train.threads)
        without = [key for key, *_ in _changed(self._recipe) if key in _LEFT_OUT]
        said = "backend trl: TRL's SFTTrainer, on padded rows"
        self._recorder.note(said + (f"; without effect: train.{', train.'.join(without)}" if without else ""))
        self._recorder.stage("loading the model")
        self._trainer = self._make_trainer()
        self._model = cast("PreTrainedModel", self._trainer.model)
        facts: dict[str, Any] = {"loss_before": self._loss(), "before": self._accuracy(0)}
        self._recorder.stage("step 1")
        self._trainer.train()
        facts |= {"loss_after": self._loss(), "after": self._accuracy(self._steps)}
        self._save()
        return {key: value for key, value in facts.items() if value is not None} | {
            "steps": self._steps,
            "examples": len(self._examples),
            "wall_seconds": time.monotonic() - started,
            "engine": "transformers" if self._task else None,
            "backend": "trl",
            "seed": self._recipe.train.seed,
        }

    def _make_trainer(self) -> _Trainer:
        model = load_model(self._model_settings, self._device)
        if self._model_settings.adapted:
            model = add_adapter(model, self._model_settings, self._recipe.train.seed)
        return _Trainer(
            self._recipe,
            self._steps,
            model=model,
            args=self._arguments(),
            train_dataset=Dataset.from_list([_row(example) for example in self._batches]),
            processing_class=self._tokenizer,
            callbacks=[StepEnd(self._finish_step)],
        )

    def _arguments(self) -> trl.SFTConfig:
        config = self._recipe.train
        longest = max(len(example.ids) for example in self._batches)
        rows = micro_batch(config.batch_size, longest, config.tokens_per_micro_batch)
        arguments = trl.SFTConfig(
            output_dir=str(self._output / "trl"),
            max_steps=self._steps,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=config.batch_size // rows,
            learning_rate=config.learning_rate,
            optim="adamw_torch_fused",
            max_grad_norm=config.max_grad_norm,
            gradient_checkpointing=config.gradient_checkpointing,
            max_length=None,  # examples are cut or dropped already
            dataset_kwargs={"skip_prepare_dataset": True},
            shuffle_dataset=False,
            seed=config.seed,
            bf16=False,  # no autocast: the weights have the recipe's dtype themselves
            use_cpu=not torch.cuda.is_available(),
            report_to=[],
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
            **adamw_arguments(config.optimizer),
        )
        arguments._n_gpu = min(arguments.n_gpu, 1)  # else transformers spreads the batch over every GPU in sight
        return arguments

    def _finish_step(self, step: int, seconds: float, logs: Mapping[str, Any]) -> None:
        config = self._recipe.train
        batch = self._batches[(step - 1) * config.batch_size : step * config.batch_size]
        tokens = sum(len(example.ids) for example in batch)
        metrics = {
            "loss": logs["loss"],
            "grad_norm": logs["grad_norm"],
            "entropy": logs["entropy"],
            "trained_tokens": sum(example.n_trained for example in batch),
            "learning_rate": learning_rate(config.for_update(self._steps), step),
            "epoch": step * config.batch_size / len(self._examples),
            "tokens": tokens,
            "seconds": seconds,
            "seconds_train": seconds,
            "tokens_per_second": tokens / seconds,
        }
        if config.eval_every and step % config.eval_every == 0 and self._held_out:
            metrics["heldout_loss"] = cast("float", self._loss())
        self._recorder.step(step, metrics)

    def _loss(self) -> float | None:
        """Cross entropy of the held-out examples by TRL's own loss, nats a token."""
        if not self._held_out:
            return None
        self._recorder.stage("measuring the held-out loss")
        rows = [_row(example) for example in self._held_out]
        longest = max(len(row["input_ids"]) for row in rows)
        size = max(1, self._recipe.train.tokens_per_micro_batch // longest)
        learned = sum(example.n_trained for example in self._held_out)
        training, total = self._model.training, 0.0
        self._model.eval()
        with torch.no_grad():
            for first in range(0, len(rows), size):
                batch = self._trainer.data_collator(rows[first : first + size])
                batch = {name: tensor.to(self._device) for name, tensor in batch.items()}
                total += self._trainer.compute_loss(self._model, batch, num_items_in_batch=learned).item()
        self._model.train(training)
        return total

    def _accuracy(self, step: int) -> dict[str, Any] | None:
        """By our evaluator and in-process engine, with a copy of the weights."""
        if self._task is None:
            return None
        self._recorder.stage(f"measuring held-out accuracy at step {step}")
        shared = self._recipe.for_update(self._steps)
        of = (shared, self._model_settings, self._tokenizer, self._device, self._task, self._prompts)
        return self._recorder.evaluation(step, run_async(held_out_accuracy(*of, self._model, step)))

    def _save(self) -> None:
        self._recorder.stage("writing the checkpoint")

        def write(folder: Path) -> None:
            self._model.save_pretrained(folder)
            self._tokenizer.save_pretrained(folder)

        write_folder(self._output / "checkpoints" / f"step-{self._steps:06d}", write)


def _row(example: Example) -> dict[str, list[int]]:
    labels = [token if trained else IGNORED for token, trained in zip(example.ids, example.trained, strict=True)]
    return {"input_ids": list(example.ids), "labels": labels}


class _Trainer(trl.SFTTrainer):
    """With the examples in our order, and our learning rate of each step."""

    def __init__(self, recipe: SFTRecipe, steps: int, **arguments: Any) -> None:
        self._rates = recipe.train.for_update(steps)
        super().__init__(**arguments)
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(cast("Dataset", self.train_dataset if train_dataset is None else train_dataset))

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        def share(done: int) -> float:
            return learning_rate(self._rates, done + 1) / self._rates.learning_rate

        self.lr_scheduler = LambdaLR(optimizer or cast("Optimizer", self.optimizer), share)
        return self.lr_scheduler
