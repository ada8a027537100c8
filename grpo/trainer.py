"""Group Relative Policy Optimization (DeepSeekMath, arXiv 2402.03300; DeepSeek-R1, arXiv 2501.12948).

    for each step:
        sample G completions of each of P prompts         rollout/scheduler.py
        score them, A = advantage within the group        rewards, advantage.py
        minimise the clipped loss on micro-batches        policy/learner.py
        send the new weights to the server                rollout/sync/

Departures from the papers: no KL term by default; a completion that could not be scored is left out of
its group; groups without advantage are counted by the normaliser but not computed (their gradient is
exactly 0 without a KL); the sampler's log-probs are corrected by a truncated importance weight.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from grpo import parts
from grpo.config import GRPOConfig, ModelSettings, RolloutSettings
from grpo.policy.checkpoint import CheckpointWriter, checkpoints, load_checkpoint
from grpo.policy.learner import Learner
from grpo.policy.load import load_tokenizer
from grpo.policy.optim import learning_rate
from grpo.policy.proof import Proof, prove
from grpo.record.atomic import write_folder
from grpo.record.diagnosis import Diagnosis
from grpo.record.recorder import RunRecorder
from grpo.record.rows import means, rollout_metrics, rollout_rows, staleness
from grpo.rollout.engine import AdapterEngine, RolloutEngine, SyncReport
from grpo.rollout.scheduler import Scheduler, ScoredGroup, StepRollouts
from grpo.rollout.vllm.phases import said_phases
from grpo.signal.advantage import load_advantage
from grpo.signal.batch import train_batch
from grpo.signal.null_rewards import null_rewards
from grpo.signal.scoring import earned, kl_metrics, penalised, reward_inputs
from grpo.signal.tasks import order_of
from grpo.types import Group, Prompt, RewardsOfGroup, Sample
from rewards import RewardSum
from rewards.types import TrainerState

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")

# () -> {"accuracy", "low", "high", "n", ...} on held-out problems; handed in, so that grpo needs no eval.
Evaluate = Callable[[], Awaitable[Mapping[str, Any]]]

STEP_PARTS = ("wait", "reward", "train", "sync")  # of a step's seconds; what is none of them is the rest


class GRPOTrainer:
    """Trains a model with rewards on prompts. Call `await train()` once; in a script, `asyncio.run(trainer.train())`.

        GRPOTrainer(model_settings=FOLDER, rewards=["accuracy", my_reward], prompts=rows, run_dir="runs/mine")

    Args:
        model_settings: or a folder or hub id.
        rewards: or names, settings and functions of rewards; a function is called in this process.
        prompts: or rows, see grpo/parts.py; `template` makes prompts of them, as `task.template` of a recipe does.
        run_dir: gets what docs/reference/files.md lists.
        resume: go on from the newest checkpoint in `run_dir`.
        evaluate: measures the weights that the engine serves; None: held-out accuracy is not measured.
        shares: of the tasks that the prompts name, see grpo/signal/tasks.py; None: one task.
        learner, tokenizer, engine, recorder: made from the settings where None. Of several ranks, the leader's learner.
    """

    def __init__(
        self,
        *,
        model_settings: ModelSettings | str,
        rewards: RewardSum | Sequence[parts.GivenReward],
        prompts: Sequence[Prompt] | Iterable[Mapping[str, Any]],
        run_dir: Path | str,
        config: GRPOConfig | None = None,
        rollout: RolloutSettings | None = None,
        template: str = "r1_zero",
        resume: bool = False,
        learner: Learner | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        engine: RolloutEngine | None = None,
        recorder: RunRecorder | None = None,
        evaluate: Evaluate | None = None,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        self.config, self.rollout = config, rollout = config or GRPOConfig(), rollout or RolloutSettings()
        self.model_settings = model = parts.given_model(model_settings)
        self.run_dir, self.evaluate = (run_dir := Path(run_dir)), evaluate
        self.rewards = parts.given_rewards(rewards)
        self.tokenizer = tokenizer = tokenizer or load_tokenizer(model)
        prompts = parts.given_prompts(prompts, tokenizer, template, rollout.max_prompt_tokens)
        self._own_recorder = recorder is None
        self.recorder = recorder = recorder or parts.open_recorder(run_dir, model, config, rollout, resume)
        self.learner = learner = learner or parts.make_learner(config, model, rollout)
        self.engine = engine = engine or parts.make_engine(model, rollout, config, tokenizer, run_dir)
        self._order = order_of(config.curriculum, prompts, rollout.prompts_per_step, config.seed, shares)
        self.scheduler = Scheduler(
            engine, prompts, self._order, rollout, self._score, config.seed, config.steps, self._has_contrast
        )
        self._advantage = load_advantage(config.advantage_kind)
        self._diagnosis = Diagnosis(config, rollout, run_dir, recorder.note)
        self._facts: dict[str, Any] = {"wall_seconds": 0.0, "measured": 0}  # goes into every checkpoint
        self._proof: Proof | None = None  # None: not asked for
        self._whole = 0  # the last step that was trained and recorded
        self._n_prompts = len(prompts)
        # One thread, always the same: the event loop goes on serving requests while a step trains.
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="train")
        self._checkpoints = CheckpointWriter(run_dir, learner, tokenizer, config.keep_checkpoints)

    async def train(self) -> dict[str, Any]:
        """Run from the checkpoint of the recorder's `resume_step`, or from the start, to `config.steps`.

        Cancelled, it writes a checkpoint of the last whole step before it raises CancelledError. A step whose samples
        are there is trained to its end first: nothing is sampled twice, and weights are never kept half-way.
        """
        done = self._whole = self._restore()
        self._started = time.monotonic() - self._facts["wall_seconds"]
        for sentence in self.learner.sentences(self.model_settings.path):
            self.recorder.note(sentence)
        try:
            starting = f"starting the rollout engine ({self.engine.name})"
            self.recorder.stage(starting)
            async with said_phases(self.run_dir / "logs", lambda doing: self.recorder.stage(f"{starting}: {doing}")):
                await self.engine.start()
            # Also before the first step: proves that the sync works before any sample is drawn.
            await (self._prove(done) if self.config.proof else self._sync(done))
            if "before" not in self._facts:
                self._facts["before"] = await self._evaluate(0)
            self._mark = time.monotonic()  # up to which the seconds are part of some step, or of none
            if done:
                await self._keep(done)  # what a stop left undone
            for step in range(done + 1, self.config.steps + 1):
                await self._step(step)
                await self._keep(step)
            after = self._facts.get("after") or await self._evaluate(self.config.steps)
            await self._computed(self._checkpoints.finish)
            summary = self._summary(after)
            if self._own_recorder:
                self.recorder.finish(summary)
            return summary
        except asyncio.CancelledError:
            self.learner.ranks.check()
            await self._keep_whole()
            raise
        finally:
            self.rewards.close()  # a thread may be waiting for one that hangs
            await self.scheduler.cancel()
            await self.engine.close()
            self._compute.shutdown()
            self._checkpoints.close()
            if self._own_recorder:
                parts.end_recorder(self.recorder)

    async def _step(self, step: int) -> None:
        self.recorder.stage(f"step {step}: sampling")
        rollouts = await self.scheduler.collect(step)
        training = asyncio.create_task(self._train_on(step, rollouts))
        try:
            metrics = await asyncio.shield(training)
            updated = time.monotonic()
            sync = await self._sync(step)
            metrics |= {"seconds_sync": time.monotonic() - updated, "seconds_paused": sync.seconds_paused}
        except asyncio.CancelledError:
            # The groups are taken and the weights may be half-way: the step is trained to its end, but not sent.
            self._record(step, await training)
            raise
        self.scheduler.ask()  # what follows is done while the next samples are being drawn
        self._record(step, metrics)

    async def _train_on(self, step: int, rollouts: StepRollouts) -> dict[str, float]:
        """From samples to new weights; returns the metrics of all that."""
        self._diagnosis.refuse_failures(step, rollouts.groups)
        rewards = await self._rewards(step, rollouts.groups)
        advantages = self._advantage(rewards)
        skips = self.learner.skips_zero_advantage
        batch = train_batch(step, rollouts.groups, advantages, self.config, self.rollout.max_tokens, skips)
        # Dropped groups are counted and kept like the others, but have no part in the training.
        groups = rollouts.groups + rollouts.dropped
        advantages += [[None] * len(scored.rewards) for scored in rollouts.dropped]
        rows = rollout_rows(step, groups, advantages, n_dropped=len(rollouts.dropped))
        recording = asyncio.create_task(asyncio.to_thread(self.recorder.rollouts, step, rows))
        self.recorder.stage(f"step {step}: training")
        started = time.monotonic()
        trained = await self._computed(self.learner.update, step, batch)
        updated = time.monotonic()
        await recording
        return {
            **rollout_metrics(groups, advantages, asked=len(groups) * self.rollout.group_size),
            **means("logged", [metric for scored in groups for metric in scored.logged]),
            **trained,
            **kl_metrics(rewards),
            **self._order.metrics(),
            "staleness": staleness(step, rollouts.groups),
            "refilled_groups": len(rollouts.dropped),
            "learning_rate": learning_rate(self.config, step),
            "seconds_wait": rollouts.seconds_wait,
            "seconds_reward": rollouts.seconds_reward,
            "seconds_train": updated - started,
        }

    def _record(self, step: int, metrics: dict[str, float]) -> None:
        served = {"weight_version": self.engine.version, "server_restarts": self.engine.restarts}
        proven = {"proven_noise": self._proof.noise} if self._proof else {}
        metrics = {"seconds_sync": 0.0, "seconds_paused": 0.0, **metrics, **served, **proven}
        now = time.monotonic()
        metrics["seconds"], self._mark = now - self._mark, now
        metrics["seconds_rest"] = metrics["seconds"] - sum(metrics[f"seconds_{part}"] for part in STEP_PARTS)
        metrics["tokens_per_second"] = metrics["tokens"] / metrics["seconds"]
        self.recorder.step(step, metrics)
        self._whole = step
        self._diagnosis.explain(metrics)

    async def _keep(self, step: int) -> None:
        """What is due after the step: measuring the weights, and a checkpoint. Its time is not the step's."""
        self._checkpoints.check()
        last = step == self.config.steps
        measured = last or (self.config.eval_every and step % self.config.eval_every == 0)
        kept = last or (self.config.checkpoint_every and step % self.config.checkpoint_every == 0)
        if measured and self._facts["measured"] < step:
            result = await self._evaluate(step)
            self._facts |= {"measured": step} | ({"after": result} if last else {})
        if kept and self._checkpoints.newest < step:
            await self._save(step)
        if measured or kept:
            self._mark = time.monotonic()

    async def _keep_whole(self) -> None:
        """A checkpoint of the last whole step, unless there is one. Another that is being written comes first."""
        await self._computed(self._checkpoints.finish)
        if self._checkpoints.newest < self._whole:
            await self._save(self._whole)
            await self._computed(self._checkpoints.finish)

    # -- rewards and advantages ------------------------------------------------------------------

    def _score(self, step: int, group: Group) -> ScoredGroup:
        """Scores what the model was given of its own turn plus what it wrote."""
        if not group.completions:
            return ScoredGroup(group, ())
        texts, columns = reward_inputs(group.prompt, group.completions)
        epoch = (step - 1) * self.rollout.prompts_per_step / self._n_prompts
        state = TrainerState(step - 1, self.config.steps, epoch)
        logged: list[tuple[str, float]] = []
        scored = self.rewards.score(texts, columns, state, lambda *one: logged.append(one), group.prompt.task)
        return ScoredGroup(group, tuple(scored), tuple(logged))

    def _has_contrast(self, scored: ScoredGroup) -> bool:
        """Whether the group can teach anything.

        One that could not be scored is a failure, which no refill may hide; a control's rewards are not drawn yet.
        """
        rewards = earned(scored.rewards, self.rewards.weights)
        failed = all(value is None for value in rewards.total_G)
        return failed or self.config.control != "none" or any(self._advantage([rewards])[0])

    async def _rewards(self, step: int, groups: list[ScoredGroup]) -> list[RewardsOfGroup]:
        """What advantages are made of: with train.kl_place: reward, less the KL of each completion."""
        rewards = [self._trained_rewards(step, scored) for scored in groups]
        if not (self.config.kl_coef and self.config.kl_place == "reward"):
            return rewards
        samples = [Sample.of(one.group.prompt, written) for one in groups for written in one.group.completions]
        penalties = iter(await self._computed(self.learner.kl_penalties, samples))
        return [penalised(one, [next(penalties) for _ in one.total_G], self.config.kl_coef) for one in rewards]

    def _trained_rewards(self, step: int, scored: ScoredGroup) -> RewardsOfGroup:
        control, group = self.config.control, scored.group
        if control == "none":
            return earned(scored.rewards, self.rewards.weights)
        seed = f"{self.config.seed}/{step}/{group.prompt.id}"
        return null_rewards(control, group.prompt, group.completions, scored.rewards, seed)

    # -- weights, checkpoints, evaluation ----------------------------------------------------------

    async def _sync(self, version: int) -> SyncReport:
        self.recorder.stage(f"sending {f'weights, version {version}' if version >= 0 else 'perturbed weights'}")
        lora = self.model_settings.lora
        if lora is None or lora.sync != "adapter":
            return await self.engine.update_weights(self.learner.weights, version)
        folder = self.run_dir / "adapters" / f"version-{version:06d}"
        await asyncio.to_thread(write_folder, folder, self.learner.save_model)
        report = await cast("AdapterEngine", self.engine).update_adapter(folder, version)
        # Completions in flight may still use the last ones; higher ones are of steps that a resumed run trains again.
        served = range(version - self.rollout.adapters_served + 1, version + 1)
        kept = {f"version-{number:06d}" for number in served}
        for other in folder.parent.glob("version-*"):
            if other.name not in kept:
                shutil.rmtree(other)
        return report

    async def _prove(self, version: int) -> None:
        """Serve the weights as `version`; raises ModelError if what is served is not what is trained."""
        self.recorder.stage("proving that the server computes what is trained")
        what = (self.learner, self.engine, self._sync, self._compute, self.rollout, self.model_settings)
        self._proof = await prove(*what, version)
        self.recorder.note(self._proof.note)

    def _restore(self) -> int:
        """The step to go on from, which is the recorder's, so that weights and records agree; 0 is the start."""
        step = self.recorder.resume_step
        if not step:
            return 0
        folder = dict(checkpoints(self.run_dir))[step]
        self._facts = {"measured": step} | load_checkpoint(folder, self.learner)
        self.scheduler.resume(step, self._facts.get("prompts"))
        if step < self.config.steps:
            self._facts.pop("after", None)  # of a run that ended here and now goes on for more steps
        self.recorder.note(f"resuming from {folder.name}")
        return step

    async def _save(self, step: int) -> None:
        self.recorder.stage(f"step {step}: writing the checkpoint")
        self._facts |= {"wall_seconds": time.monotonic() - self._started, "prompts": self.scheduler.state_dict()}
        await self._computed(self._checkpoints.begin, step, self._facts)

    async def _computed(self, call: Callable[..., T], *args: Any) -> T:
        """By the thread that computes. What has begun there is done to its end, cancelled or not."""
        return await asyncio.get_running_loop().run_in_executor(self._compute, call, *args)

    async def _evaluate(self, step: int) -> dict[str, Any]:
        if self.evaluate is None:
            return {}
        self.recorder.stage(f"measuring held-out accuracy at step {step}")
        result = dict(await self.evaluate())
        return self.recorder.evaluation(step, result)

    def _summary(self, after: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "before": self._facts["before"],
            "after": dict(after),
            "steps": self.config.steps,
            "wall_seconds": time.monotonic() - self._started,
            "engine": self.engine.name,
            "seed": self.config.seed,
            "control": self.config.control,
            "proof": self._proof and self._proof.summary,
        }
