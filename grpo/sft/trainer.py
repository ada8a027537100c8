"""Supervised fine-tuning of the policy on examples, with the step that GRPO has.

    for each step:
        take the next batch_size examples of this epoch's order
        minimise the cross entropy of their trained tokens, each token weighing the same     policy/learner.py

Killed and resumed it goes on with the same examples: the order is a function of the seed and the epoch.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo.losses import token_weights
from grpo.policy.checkpoint import CheckpointWriter, checkpoints, load_checkpoint
from grpo.policy.learner import Learner
from grpo.policy.optim import learning_rate
from grpo.policy.update import TrainBatch
from grpo.record.recorder import RunRecorder
from grpo.rollout.engine import RolloutEngine
from grpo.sft.config import SFTConfig
from grpo.sft.examples import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# () -> {"accuracy", "low", "high", "n", ...} of the weights that the engine serves.
Evaluate = Callable[[], Awaitable[Mapping[str, Any]]]


class SFTTrainer:
    """Trains the policy of `learner`. Call `await train()` once.

    Args:
        learner: made with `config.for_update` and CrossEntropy; of several ranks, the leader's.
        held_out: examples that are only measured; may be none.
        steps: optimizer steps of the whole run, see SFTConfig.n_steps.
        engine, evaluate: what answers the held-out problems of the task, before and after; None without a task.
    """

    def __init__(
        self,
        *,
        config: SFTConfig,
        steps: int,
        learner: Learner,
        tokenizer: PreTrainedTokenizerBase,
        examples: Sequence[Example],
        held_out: Sequence[Example],
        recorder: RunRecorder,
        run_dir: Path,
        engine: RolloutEngine | None = None,
        evaluate: Evaluate | None = None,
    ) -> None:
        self.config, self.steps, self.learner, self.tokenizer = config, steps, learner, tokenizer
        self.examples, self.held_out, self.recorder, self.run_dir = examples, held_out, recorder, run_dir
        self.engine, self.evaluate = engine, evaluate
        self._rate = config.for_update(steps)
        self._facts: dict[str, Any] = {"wall_seconds": 0.0}  # goes into every checkpoint
        self._whole = 0  # the last step that was trained and recorded
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="train")
        self._checkpoints = CheckpointWriter(run_dir, learner, tokenizer, config.keep_checkpoints)

    async def train(self) -> dict[str, Any]:
        """Run from the checkpoint of the recorder's `resume_step`, or from the start, to the last step.

        Cancelled, it ends the step, writes a checkpoint and raises CancelledError. Returns the summary.
        """
        done = self._whole = self._restore()
        self._started = time.monotonic() - self._facts["wall_seconds"]
        if self.learner.padded:
            self.recorder.note(f"training computes padded rows: {self.learner.padded}")
        try:
            if self.engine:
                self.recorder.stage(f"starting the rollout engine ({self.engine.name})")
                await self.engine.start()
            if "loss_before" not in self._facts:
                self._facts |= {"loss_before": await self._loss(), "before": await self._accuracy(0)}
            for step in range(done + 1, self.steps + 1):
                await self._step(step)
                self._checkpoints.check()
                if step < self.steps and self.config.checkpoint_every and step % self.config.checkpoint_every == 0:
                    await self._save(step)
            if "loss_after" not in self._facts:
                after = {"loss_after": await self._loss(), "after": await self._accuracy(self.steps)}
                self._facts |= after
                await self._save(self.steps)
                await self._on_ranks(self._checkpoints.finish)
            return self._summary()
        except asyncio.CancelledError:
            self.learner.ranks.check()
            await self._on_ranks(self._checkpoints.finish)
            if self._checkpoints.newest < self._whole:
                await self._save(self._whole)
                await self._on_ranks(self._checkpoints.finish)
            raise
        finally:
            if self.engine:
                await self.engine.close()
            self._compute.shutdown()
            self._checkpoints.close()

    def _summary(self) -> dict[str, Any]:
        keys = ("before", "after", "loss_before", "loss_after")
        return {key: self._facts[key] for key in keys if self._facts[key] is not None} | {
            "steps": self.steps,
            "examples": len(self.examples),
            "wall_seconds": time.monotonic() - self._started,
            "engine": self.engine.name if self.engine else None,
            "seed": self.config.seed,
        }

    async def _step(self, step: int) -> None:
        self.recorder.stage(f"step {step}: training")
        training = asyncio.create_task(self._update(step))
        try:
            await asyncio.shield(training)
        except asyncio.CancelledError:
            await training  # weights are never kept half-way
            raise

    async def _update(self, step: int) -> None:
        started = time.monotonic()
        batch = self.batch(step)
        metrics = await self._on_ranks(self.learner.update, step, batch)
        seconds = time.monotonic() - started
        tokens = sum(sample.length for sample in batch.samples)
        metrics |= {
            "learning_rate": learning_rate(self._rate, step),
            "epoch": step * self.config.batch_size / len(self.examples),
            "tokens": tokens,
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
        }
        if self.config.eval_every and step % self.config.eval_every == 0 and self.held_out:
            metrics["heldout_loss"] = await self._loss()
        self.recorder.step(step, metrics)
        self._whole = step

    def batch(self, step: int) -> TrainBatch:
        """What step `step`, counted from 1, trains on."""
        first = (step - 1) * self.config.batch_size
        places = range(first, first + self.config.batch_size)
        chosen = [example_at(self.examples, self.config.seed, place) for place in places]
        weights = token_weights("token", [example.n_trained for example in chosen], self.config.max_length)
        return TrainBatch([example.sample for example in chosen], weights)

    async def _loss(self) -> float | None:
        """Cross entropy of the held-out examples, nats a token."""
        if not self.held_out:
            return None
        self.recorder.stage("measuring the held-out loss")
        return await self._on_ranks(self.learner.cross_entropy, [example.sample for example in self.held_out])

    async def _accuracy(self, step: int) -> dict[str, Any] | None:
        """Of the weights after `step`, on the task's held-out problems."""
        if self.engine is None or self.evaluate is None:
            return None
        self.recorder.stage(f"sending weights, version {step}")
        await self.engine.update_weights(self.learner.weights, step)
        self.recorder.stage(f"measuring held-out accuracy at step {step}")
        return self.recorder.evaluation(step, dict(await self.evaluate()))

    async def _on_ranks(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._compute, function, *args)

    def _restore(self) -> int:
        step = self.recorder.resume_step
        if not step:
            return 0
        folder = dict(checkpoints(self.run_dir))[step]
        self._facts |= load_checkpoint(folder, self.learner)
        self.recorder.note(f"resuming from {folder.name}")
        return step

    async def _save(self, step: int) -> None:
        self.recorder.stage(f"step {step}: writing the checkpoint")
        self._facts["wall_seconds"] = time.monotonic() - self._started
        await self._on_ranks(self._checkpoints.begin, step, self._facts)


def example_at(examples: Sequence[Example], seed: int, place: int) -> Example:
    """The one that the run takes at this place, counted from 0 over its epochs."""
    epoch, place = divmod(place, len(examples))
    return examples[_order(seed, epoch, len(examples))[place]]


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, n: int) -> list[int]:
    order = list(range(n))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order
