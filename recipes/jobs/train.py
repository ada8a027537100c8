"""One training run, from a recipe to a summary: the only place where all packages meet."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import torch
import transformers

from grpo.config import ModelSettings
from grpo.losses.registry import policy_loss_of
from grpo.parts import make_engine
from grpo.policy.checkpoint import checkpoints, set_damaged_aside
from grpo.policy.load import load_tokenizer, max_positions
from grpo.policy.shard.ranks import Ranks
from grpo.record.recorder import RunRecorder
from grpo.record.trackers import check_trackers
from grpo.record.warned import warnings_to
from grpo.rollout.engine import RolloutEngine
from grpo.rollout.fleet.lease import Tenant, leased
from grpo.rollout.fleet.ray import Room, connect
from grpo.signal.advantage import load_advantage
from grpo.trainer import GRPOTrainer
from recipes.errors import InputError, run_async
from recipes.jobs.learner import device_of, gpus_of, joined_ranks, learner_of
from recipes.jobs.rehearsal import check_engine, check_model, in_doubt
from recipes.jobs.run_dir import check_unused, locked
from recipes.jobs.run_tasks import RunTasks, run_tasks
from recipes.jobs.teacher import check_teacher
from recipes.schema.cluster import servers_placed
from recipes.schema.load import model_settings, save_recipe
from recipes.schema.plan import plan
from recipes.schema.recipe import Recipe
from recipes.schema.sft import SFTRecipe
from rewards import RewardSum

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def run(recipe: Recipe, source: str, output: Path, resume: bool, overrides: Sequence[str] = ()) -> int:
    """Train as `recipe` says, into `output`. Returns the exit code 0.

    Args:
        source: what the user called the recipe, and `overrides` the --set beside it: for messages.
        resume: go on from the newest checkpoint in `output`; without one, from the start.

    Raises KeyboardInterrupt when it was stopped; how to go on has been said then.
    """
    # Loading bars would tear the live display apart.
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    if recipe.train.backend == "trl":
        warnings.filterwarnings("ignore", "TRL currently supports vLLM")  # which it is not used with here
        from recipes.jobs.trl_settings import refuse

        refuse(recipe, resume)
    with joined_ranks(recipe) as ranks:
        _run(recipe, source, output, resume, overrides, ranks)
    return 0


def _run(recipe: Recipe, source: str, output: Path, resume: bool, overrides: Sequence[str], ranks: Ranks) -> None:
    model = model_settings(recipe)
    # Bad rewards, a bad advantage and a bad loss are refused before anything is loaded.
    check_trackers(recipe.train.trackers)
    check_engine(recipe)
    with closing(RewardSum(recipe.rewards, isolate=True)) as rewards, ExitStack() as stack:
        load_advantage(recipe.train.advantage_kind)
        policy_loss_of(recipe.train)
        tokenizer = load_tokenizer(model)
        check_model(recipe)
        check_teacher(recipe, tokenizer)
        check_servers(recipe, model)
        tasks = run_tasks(recipe, tokenizer, stack)
        tasks.check_order()
        said = [f"{source} -> {output}", plan(recipe), tasks.words]
        said += in_doubt(tasks.rehearse(tokenizer, rewards))
        with locked(output / ".lock", f"--output {output}"), held(recipe, tenant_of(recipe, output)):
            if not resume:
                check_unused(output)
            (output / "logs").mkdir(exist_ok=True)  # by which a later start knows what this one left
            save_recipe(recipe, output / "recipe.yaml")
            with recording(recipe, recipe.train.steps, output, resume) as recorder:
                for text in said:
                    recorder.note(text)
                parts = (recipe, model, tokenizer, tasks, rewards, recorder, output, ranks)
                try:
                    recorder.finish(_train(*parts))
                except KeyboardInterrupt:
                    ranks.check()
                    recorder.note(_what_next(recipe, source, output, overrides, "stopping"))
                    raise
                except Exception as error:
                    with suppress(OSError):  # the disk may be full, which is then the error that is said
                        recorder.failed(error)
                        if checkpoints(output):
                            recorder.note(_what_next(recipe, source, output, overrides, "the run failed"))
                    raise


@contextmanager
def recording(recipe: Recipe | SFTRecipe, steps: int, output: Path, resume: bool) -> Iterator[RunRecorder]:
    damaged = set_damaged_aside(output) if resume else []
    found = checkpoints(output) if resume else []
    recorder = RunRecorder(
        output,
        recipe.model_dump(mode="json"),
        steps,
        recipe.train.trackers,
        resume_step=found[-1][0] if found else 0,
    )
    threads = torch.get_num_threads()
    try:
        for sentence in damaged:
            recorder.note(sentence)
        if resume and not found:
            recorder.note(f"{output} holds no whole checkpoint: the run starts afresh, from step 0")
        with warnings_to(recorder.log):
            yield recorder
    finally:
        recorder.close()
        torch.set_num_threads(threads)  # the next run in this process has its own


def _what_next(recipe: Recipe, source: str, output: Path, overrides: Sequence[str], why: str) -> str:
    if recipe.train.backend == "trl":
        return f"{why}. train.backend: trl keeps no checkpoint before the end: start again, with another --output"
    return how_to_go_on(source, output, overrides, why)


def how_to_go_on(source: str, output: Path, overrides: Sequence[str], why: str = "stopping") -> str:
    """The last line is a command that can be pasted into a shell in the same working folder."""
    kept = checkpoints(output)
    settings = [part for override in overrides for part in ("--set", override)]
    command = shlex.join(["zero", "run", source, *settings, "--output", str(output), "--resume"])
    return f"{why}. Last checkpoint: {kept[-1][1] if kept else 'none yet'}. Go on with\n{command}"


def _train(*parts: Any) -> dict[str, Any]:
    """Train with the backend that the recipe, the first of the parts, asks for. Returns the summary."""
    if parts[0].train.backend == "trl":
        from recipes.jobs.trl import TRLRun

        recipe, model, tokenizer, tasks, *others, _ = parts
        only = tasks.only
        return TRLRun(recipe, model, tokenizer, only.episodes.task, only.train, only.held_out, *others).train()
    return run_async(_trainer(*parts).train())


def _trainer(
    recipe: Recipe,
    model: ModelSettings,
    tokenizer: PreTrainedTokenizerBase,
    tasks: RunTasks,
    rewards: RewardSum,
    recorder: RunRecorder,
    output: Path,
    ranks: Ranks,
) -> GRPOTrainer:
    recorder.stage("loading the model")
    device = device_of(recipe)
    ranks.told(recipe.train.steps)  # to those that wait in `follow`
    learner = learner_of(recipe, device, ranks)
    engine = rollout_engine(recipe, model, tokenizer, output, device, tenant_of(recipe, output))
    engine = tasks.playing(engine, tokenizer)
    return GRPOTrainer(
        config=recipe.train,
        rollout=recipe.rollout,
        model_settings=model,
        learner=learner,
        tokenizer=tokenizer,
        engine=engine,
        rewards=rewards,
        prompts=tasks.train,
        shares=tasks.shares,
        recorder=recorder,
        run_dir=output,
        evaluate=lambda: tasks.measure(engine),
    )


def tenant_of(recipe: Recipe, output: Path) -> Tenant | None:
    """The run in `output` as the one that holds the lease of the recipe's servers; None if it attaches to none."""
    attached = recipe.rollout.server.urls and recipe.train.backend != "trl"
    return Tenant.of_run(output) if attached else None


def held(recipe: Recipe, tenant: Tenant | None) -> AbstractContextManager[None]:
    """Holds the lease of the recipe's servers. Raises AttachedError if one belongs to another run."""
    return leased(recipe.rollout.server.urls, tenant) if tenant else nullcontext()


def check_servers(recipe: Recipe, model: ModelSettings, sends_weights: bool = True) -> None:
    """Raises AttachedError if what listens at `rollout.server.urls` cannot serve this recipe, and RolloutError if
    weights cannot be sent the way that it says."""
    rollout = recipe.rollout
    if rollout.engine != "vllm" or recipe.train.backend == "trl":
        return
    from grpo.rollout.sync.transfer import WORKER_BACKEND
    from grpo.rollout.vllm.attached import check_attached
    from grpo.rollout.vllm.placement import place, placed

    if sends_weights and servers_placed(recipe):
        placed(rollout.server)
    elif sends_weights:
        place(rollout.server, recipe.train.gpus)
    if not rollout.server.urls:
        return
    length = min(rollout.max_prompt_tokens + rollout.max_tokens, max_positions(model))
    run_async(check_attached(rollout, model, length, WORKER_BACKEND if sends_weights else None))


def rollout_engine(
    recipe: Recipe,
    model: ModelSettings,
    tokenizer: PreTrainedTokenizerBase,
    output: Path,
    device: torch.device,
    tenant: Tenant | None = None,
) -> RolloutEngine:
    """The engine that the recipe asks for, not started.

    `device`: the trainer's, or of the in-process engine. `tenant`: who holds the lease of the recipe's urls.
    """
    rollout, room = recipe.rollout, None
    threads = rollout.server.threads
    if servers_placed(recipe):
        room, threads = Room.of_environment(), threads or recipe.cluster.cpus_per_server
        if room is None:
            raise InputError("cluster.address: `zero run` itself places its processes; start it without torchrun")
        connect(room.address)
    trainer_gpus = gpus_of(recipe.train) if device.type == "cuda" else []
    return make_engine(model, rollout, recipe.train, tokenizer, output, device, trainer_gpus, tenant, room, threads)
