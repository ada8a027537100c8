"""Group Relative Policy Optimization (DeepSeekMath, arXiv 2402.03300; DeepSeek-R1, arXiv 2501.12948).

    for each step:
        sample G completions of each of P prompts         rollout/scheduler.py
        score them, A = advantage within the group        rewards, advantage.py
        minimise the clipped loss on micro-batches        pack.py, model.py, loss.py
        send the new weights to the server                rollout/weight_sync.py

Departures from the papers: no KL term by default; a completion that could not be scored is left out of
its group; groups without advantage are counted by the normaliser but not computed (their gradient is
exactly 0 without a KL); the sampler's log-probs are corrected by a truncated importance weight.
"""

from __future__ import annotations

import asyncio
import math
import random
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from grpo.advantage import group_advantages
from grpo.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from grpo.config import GRPOConfig, ModelSettings, RolloutSettings
from grpo.loss import policy_loss, token_weights, truncated_correction
from grpo.metrics import RunRecorder
from grpo.model import ServedWeights, completion_logprobs
from grpo.optim import MasterAdamW, learning_rate
from grpo.pack import micro_batches, pack
from grpo.rollout.engine import AdapterEngine, RolloutEngine, RolloutError, SyncReport
from grpo.rollout.scheduler import Scheduler, ScoredGroup, StepRollouts
from grpo.scoring import reward_inputs
from grpo.types import Completion, Group, Prompt, Sample
from rewards import Reward, RewardSum
from rewards.types import FAILURES, TrainerState

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# (step) -> {"accuracy", "low", "high", "n", ...} on held-out problems; handed in, so that grpo needs no eval.
Evaluate = Callable[[], Awaitable[Mapping[str, Any]]]

SHOWN_FAILURES = 3  # completions that the error about too many failures quotes
SHOWN_CHARACTERS = 120  # of each, and of its reason
MISMATCH = 0.1  # mean |trainer - server| log-prob above which the run says so (bf16 noise is about 0.01 to 0.06)


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """What one optimizer batch trains on. `weights[i]` is the loss weight of each token of `samples[i]`."""

    samples: list[Sample]
    weights: list[float]


class GRPOTrainer:
    """Trains `model` on `prompts` with the completions of `engine`. Call `await train()` once.

    Args:
        model: the policy on its device, as `load_model` (and `add_lora`) made it.
        reference: the frozen model of the KL term; None with LoRA (the adapter is switched off) or without KL.
        evaluate: measures the weights that the engine serves.
    """

    def __init__(
        self,
        *,
        config: GRPOConfig,
        rollout: RolloutSettings,
        model_settings: ModelSettings,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        engine: RolloutEngine,
        rewards: RewardSum,
        prompts: Sequence[Prompt],
        recorder: RunRecorder,
        run_dir: Path,
        evaluate: Evaluate,
        reference: PreTrainedModel | None = None,
    ) -> None:
        self.config, self.rollout, self.model_settings = config, rollout, model_settings
        self.model, self.tokenizer, self.reference = model, tokenizer, reference
        self.engine, self.rewards, self.recorder, self.evaluate = engine, rewards, recorder, evaluate
        self.run_dir = run_dir
        self.optimizer = MasterAdamW(model.parameters(), **config.optimizer)
        self.served = ServedWeights(model)
        self.scheduler = Scheduler(engine, prompts, rollout, self._score, config.seed, config.steps)
        self._device = next(model.parameters()).device
        self._facts: dict[str, Any] = {"wall_seconds": 0.0}  # goes into every checkpoint
        self._said: set[str] = set()
        self._n_prompts = len(prompts)
        self._logged: defaultdict[int, list[tuple[str, float]]] = defaultdict(list)  # by rewards, of steps being drawn
        # One thread, always the same: the event loop goes on serving requests while a step trains.
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="train")

    async def train(self) -> dict[str, Any]:
        """Run from the newest checkpoint of the run directory, or from the start, to `config.steps`."""
        done = self._restore()
        self._started = time.monotonic() - self._facts["wall_seconds"]
        try:
            self.recorder.stage(f"starting the rollout engine ({self.engine.name})")
            await self.engine.start()
            # Also before the first step: proves that the sync works before any sample is drawn.
            await self._sync(done)
            if "before" not in self._facts:
                self._facts["before"] = await self._evaluate(0)
            for step in range(done + 1, self.config.steps + 1):
                await self._step(step)
            after = self._facts.get("after") or await self._evaluate(self.config.steps)
            return self._summary(after)
        finally:
            self.rewards.close()  # a thread may be waiting for one that hangs
            await self.scheduler.cancel()
            await self.engine.close()
            self._compute.shutdown()

    async def _step(self, step: int) -> None:
        started = time.monotonic()
        self.recorder.stage(f"step {step}: sampling")
        rollouts = await self.scheduler.collect(step)
        sampled = time.monotonic()
        self._refuse_failures(step, rollouts.groups)
        advantages = self._advantages(step, rollouts.groups)
        batch = self._batch(rollouts.groups, advantages)
        self.recorder.stage(f"step {step}: training")
        trained = await asyncio.get_running_loop().run_in_executor(self._compute, self._update, step, batch)
        updated = time.monotonic()
        sync = await self._sync(step)
        metrics = {
            **self._rollout_metrics(rollouts, advantages),
            **_means("logged", self._logged.pop(step, [])),
            **trained,
            "learning_rate": learning_rate(self.config, step),
            "weight_version": sync.version,
            "server_restarts": self.engine.restarts,
            "seconds_rollout": sampled - started,
            "seconds_reward": rollouts.seconds_reward,
            "seconds_train": updated - sampled,
            "seconds_sync": sync.seconds,
            "seconds": time.monotonic() - started,
        }
        metrics["tokens_per_second"] = metrics["tokens"] / metrics["seconds"]
        self.recorder.rollouts(step, _rollout_rows(step, rollouts.groups, advantages))
        self.recorder.step(step, metrics)
        self._explain(metrics)
        last = step == self.config.steps
        if self.config.eval_every and step % self.config.eval_every == 0 and not last:
            await self._evaluate(step)
        if last:
            self._facts["after"] = await self._evaluate(step)
        if last or (self.config.checkpoint_every and step % self.config.checkpoint_every == 0):
            self._save(step)

    # -- rewards and advantages ------------------------------------------------------------------

    def _score(self, step: int, group: Group) -> tuple[Reward, ...]:
        """Scores what the model was given of its own turn plus what it wrote."""
        if not group.completions:
            return ()
        texts, columns = reward_inputs(group.prompt, group.completions)
        epoch = (step - 1) * self.rollout.prompts_per_step / self._n_prompts
        state = TrainerState(step - 1, self.config.steps, epoch)
        log_metric = self._logged[step].append
        return tuple(self.rewards.score(texts, columns, state, lambda name, value: log_metric((name, value))))

    def _advantages(self, step: int, groups: list[ScoredGroup]) -> list[list[float | None]]:
        kind = self.config.advantage_kind
        return [group_advantages(self._trained_rewards(step, scored), kind) for scored in groups]

    def _trained_rewards(self, step: int, scored: ScoredGroup) -> list[float | None]:
        values = [reward.value for reward in scored.rewards]
        if self.config.control == "none":
            return values
        coin = random.Random(f"{self.config.seed}/{step}/{scored.group.prompt.id}")
        return [None if value is None else float(coin.random() < 0.5) for value in values]

    def _batch(self, groups: list[ScoredGroup], advantages: list[list[float | None]]) -> TrainBatch:
        """The samples with a gradient, weighted by normalisers that count the others too."""
        samples, lengths = [], []
        for scored, advantages_G in zip(groups, advantages, strict=True):
            for completion, advantage in zip(scored.group.completions, advantages_G, strict=True):
                if advantage is None:
                    continue
                masked = self.config.mask_truncated and completion.finish_reason == "length"
                lengths.append(0 if masked else len(completion.token_ids))
                samples.append(
                    Sample(scored.group.prompt.token_ids, completion.token_ids, completion.logprobs, advantage)
                )
        weights = token_weights(self.config.loss, lengths, self.rollout.max_tokens)
        trained = [i for i, s in enumerate(samples) if lengths[i] and (s.advantage or self.config.kl_coef)]
        return TrainBatch([samples[i] for i in trained], [weights[i] for i in trained])

    # -- the update ------------------------------------------------------------------------------

    def _update(self, step: int, batch: TrainBatch) -> dict[str, float]:
        """`updates_per_batch` optimizer steps on the batch. Returns their metrics."""
        torch.manual_seed(hash((self.config.seed, step)))  # dropout repeats on resume
        self.model.train()
        packed = [
            pack([batch.samples[i] for i in rows], [batch.weights[i] for i in rows], self._device)
            for rows in micro_batches([s.length for s in batch.samples], self.config.tokens_per_micro_batch)
        ]
        old: list[Tensor] = []
        ref: list[Tensor | None] = []
        sums: defaultdict[str, float] = defaultdict(float)
        for update in range(self.config.updates_per_batch):
            self.optimizer.zero_grad()
            for i, micro in enumerate(packed):
                logprobs_T, entropy_T = completion_logprobs(self.model, micro, self.rollout.temperature)
                if update == 0:
                    old.append(logprobs_T.detach())
                    ref.append(self._reference_logprobs(micro))
                    difference_T = old[i] - micro.sampler_logprobs_T
                    sums["logprob_diff"] += difference_T.abs().sum().item()
                    sums["kl_sampler"] += (difference_T.exp() - difference_T - 1).sum().item()
                    sums["entropy"] += entropy_T.sum().item()
                terms = policy_loss(
                    logprobs_T,
                    old[i],
                    micro.advantage_T,
                    micro.weight_T,
                    clip_low=self.config.clip_low,
                    clip_high=self.config.clip_high,
                    correction_T=self._correction(old[i], micro.sampler_logprobs_T),
                    kl_coef=self.config.kl_coef,
                    ref_logprobs_T=ref[i],
                )
                terms.loss.backward()
                sums["loss"] += terms.loss.item()
                sums["clipped"] += terms.clipped.item()
                sums["kl"] += terms.kl.item()
                sums["tokens"] += len(micro.target_T)
            sums["grad_norm"] += self.optimizer.step(learning_rate(self.config, step), self.config.max_grad_norm)
        self.model.eval()
        updates = self.config.updates_per_batch
        per_token = {key: sums[key] / max(sums["tokens"], 1) for key in ("clipped", "kl")}
        # Measured in the first update only, on trained tokens; without any there is nothing to report.
        at_start = {key: sums[key] * updates / sums["tokens"] for key in _AT_START if sums["tokens"]}
        return {
            "loss": sums["loss"] / updates,
            "grad_norm": sums["grad_norm"] / updates,
            "trained_tokens": sums["tokens"] / updates,
            **per_token,
            **at_start,
        }

    def _correction(self, old_T: Tensor, sampler_T: Tensor) -> Tensor | None:
        if self.config.correction == "none":
            return None
        return truncated_correction(old_T, sampler_T, self.config.correction_cap)

    @torch.no_grad()
    def _reference_logprobs(self, micro: Any) -> Tensor | None:
        if not self.config.kl_coef:
            return None
        reference: nn.Module = self.model if self.reference is None else self.reference
        without_adapter = self.model.disable_adapter() if self.reference is None else nullcontext()  # type: ignore[operator]
        with without_adapter:
            return completion_logprobs(reference, micro, self.rollout.temperature)[0]

    # -- weights, checkpoints, evaluation ----------------------------------------------------------

    async def _sync(self, version: int) -> SyncReport:
        self.recorder.stage(f"sending weights, version {version}")
        lora = self.model_settings.lora
        if lora is None or lora.sync == "merged":
            return await self.engine.update_weights(self.served, version)
        folder = self.run_dir / "adapters" / f"version-{version:06d}"
        await asyncio.to_thread(self.model.save_pretrained, folder)
        report = await cast("AdapterEngine", self.engine).update_adapter(folder, version)
        for old in sorted(folder.parent.iterdir())[:-3]:  # completions in flight may still use the last ones
            shutil.rmtree(old)
        return report

    def _restore(self) -> int:
        """The step to go on from: that of the newest checkpoint, 0 if there is none."""
        found = checkpoints(self.run_dir)
        if not found:
            return 0
        step, folder = found[-1]
        self._facts = load_checkpoint(folder, self.optimizer)
        if step < self.config.steps:
            self._facts.pop("after", None)  # of a run that ended here and now goes on for more steps
        self.recorder.note(f"resuming from {folder.name}")
        return step

    def _save(self, step: int) -> None:
        self.recorder.stage(f"step {step}: writing the checkpoint")
        self._facts["wall_seconds"] = time.monotonic() - self._started
        save_checkpoint(
            self.run_dir, step, self.model, self.tokenizer, self.optimizer, self._facts, self.config.keep_checkpoints
        )

    async def _evaluate(self, step: int) -> dict[str, Any]:
        self.recorder.stage(f"measuring held-out accuracy at step {step}")
        result = dict(await self.evaluate())
        self.recorder.evaluation(step, result)
        return result

    def _summary(self, after: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "before": self._facts["before"],
            "after": dict(after),
            "steps": self.config.steps,
            "wall_seconds": time.monotonic() - self._started,
            "engine": self.engine.name,
            "seed": self.config.seed,
            "control": self.config.control,
        }

    # -- what is said about a step -------------------------------------------------------------------

    def _refuse_failures(self, step: int, groups: list[ScoredGroup]) -> None:
        unscored = [
            (scored.group.prompt, completion, reward)
            for scored in groups
            for completion, reward in zip(scored.group.completions, scored.rewards, strict=True)
            if reward.value is None
        ]
        causes = Counter(_failure_cause(reward) for _, _, reward in unscored)
        for scored in groups:
            causes.update(scored.group.failures)
        asked = self.rollout.prompts_per_step * self.rollout.group_size
        failed = sum(causes.values())
        if failed > self.config.max_failed_share * asked:
            counts = ", ".join(f"{cause} {count}" for cause, count in causes.most_common())
            examples = "".join(f"\n  {_in_words(*example)}" for example in unscored[:SHOWN_FAILURES])
            raise RolloutError(
                f"step {step}: {failed} of {asked} completions failed ({counts}), more than "
                f"train.max_failed_share = {self.config.max_failed_share}. See logs/ in {self.run_dir}"
                + (f". For example:{examples}" if examples else "")
            )

    def _rollout_metrics(self, rollouts: StepRollouts, advantages: list[list[float | None]]) -> dict[str, float]:
        completions = [c for scored in rollouts.groups for c in scored.group.completions]
        rewards = [r for scored in rollouts.groups for r in scored.rewards]
        values = [r.value for r in rewards if r.value is not None]
        outcomes = Counter(r.score.outcome for r in rewards if r.score is not None)
        graded = sum(count for name, count in outcomes.items() if name not in FAILURES)
        parts = [(name, value) for r in rewards for name, value in r.parts.items() if value is not None]
        asked = self.rollout.prompts_per_step * self.rollout.group_size
        n = max(len(completions), 1)
        return {
            "reward": _mean(values),
            "reward_std": _mean([_std([r.value for r in s.rewards if r.value is not None]) for s in rollouts.groups]),
            "accuracy": outcomes["correct"] / max(graded, 1),
            "length": _mean([len(c.token_ids) for c in completions]),
            "truncated": sum(c.finish_reason == "length" for c in completions) / n,
            "tokens": sum(len(c.token_ids) for c in completions),
            "zero_variance_groups": _mean([float(not any(group)) for group in advantages]),
            "failed": (asked - len(values)) / asked,
            **{f"outcome/{name}": count / n for name, count in outcomes.items()},
            **_means("reward", parts),
        }

    def _explain(self, metrics: Mapping[str, float]) -> None:
        """Say in words what usually goes wrong, once each."""
        if metrics["zero_variance_groups"] == 1:
            self._say_once(
                "no contrast",
                "every group of this step has one and the same reward for all its completions, so nothing could be "
                "learned from it (loss 0). If this goes on, the task is too hard or too easy: change "
                "task.config or raise rollout.group_size",
            )
        if metrics.get("logprob_diff", 0.0) > MISMATCH:
            self._say_once(
                "mismatch",
                f"the server's log-probs differ from the trainer's by {metrics['logprob_diff']:.2f} on average "
                f"(more than {MISMATCH}): usual causes are model.dtype, LoRA merged in bf16, or stale weights; "
                f"train.correction: {self.config.correction} is applied",
            )
        if metrics["truncated"] > 0.5:
            self._say_once(
                "truncated",
                f"{metrics['truncated']:.0%} of the completions were cut at rollout.max_tokens = "
                f"{self.rollout.max_tokens}: raise it if their answers are missing",
            )

    def _say_once(self, key: str, sentence: str) -> None:
        if key not in self._said:
            self._said.add(key)
            self.recorder.note(sentence)


_AT_START = ("logprob_diff", "kl_sampler", "entropy")


def _failure_cause(reward: Reward) -> str:
    """The outcome of the verdict that failed; without one, no reward had a value for the completion."""
    return reward.score.outcome if reward.score and reward.score.outcome in FAILURES else "no reward applies"


def _in_words(prompt: Prompt, completion: Completion, reward: Reward) -> str:
    """`arithmetic/train/17: timeout, not settled in 3 CPU seconds; the completion ends in '... 9!!</answer>'`"""
    cause = _failure_cause(reward)
    reason = f", {reward.score.reason[:SHOWN_CHARACTERS]}" if reward.score and reward.score.outcome == cause else ""
    start = "..." if len(completion.text) > SHOWN_CHARACTERS else ""
    return f"{prompt.id}: {cause}{reason}; the completion ends in {start + completion.text[-SHOWN_CHARACTERS:]!r}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _means(prefix: str, values: Sequence[tuple[str, float]]) -> dict[str, float]:
    """{"prefix/name": mean of the values of that name}"""
    named: defaultdict[str, list[float]] = defaultdict(list)
    for name, value in values:
        named[name].append(value)
    return {f"{prefix}/{name}": _mean(one) for name, one in named.items()}


def _std(values: Sequence[float]) -> float:
    mean = _mean(values)
    return math.sqrt(_mean([(value - mean) ** 2 for value in values])) if values else 0.0


def _rollout_rows(step: int, groups: list[ScoredGroup], advantages: list[list[float | None]]) -> list[dict[str, Any]]:
    """One row a completion, as `rollouts/step-NNNNNN.parquet` keeps them."""
    return [
        {
            "step": step,
            "group": number,
            "prompt_id": scored.group.prompt.id,
            "prompt": scored.group.prompt.text,
            "prefill": scored.group.prompt.prefill,
            "messages": list(scored.group.prompt.messages) or None,
            "completion": completion.text,
            "answer": scored.group.prompt.answer,
            "columns": dict(scored.group.prompt.columns),
            "reward": reward.value,
            "rewards": dict(reward.parts),
            "extra": dict(reward.extra),
            "outcome": reward.score.outcome if reward.score else None,
            "extracted": reward.score.extracted if reward.score else None,
            "reason": reward.score.reason if reward.score else None,
            "advantage": advantage,
            "finish_reason": completion.finish_reason,
            "token_ids": list(completion.token_ids),
            "logprobs": list(completion.logprobs),
            "versions": list(completion.versions),
        }
        for number, (scored, advantages_G) in enumerate(zip(groups, advantages, strict=True))
        for completion, reward, advantage in zip(scored.group.completions, scored.rewards, advantages_G, strict=True)
    ]
