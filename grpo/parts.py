"""What a trainer is made of, from settings: for `GRPOTrainer` alone; the command adds ranks and machines.

A row is a mapping with `question`, or as TRL's datasets have it `prompt` (a text that the model sees as it stands, or a
list of messages), with `answer` where a reward takes one, and whatever else the rewards take.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from grpo.config import GRPOConfig, ModelSettings, RolloutSettings
from grpo.diffusion import estimate_conflicts
from grpo.losses.cross_entropy import CrossEntropy
from grpo.policy.adapters import add_adapter
from grpo.policy.checkpoint import checkpoints, set_damaged_aside
from grpo.policy.diffusion_kind import check_kind, mask_token
from grpo.policy.learner import Learner
from grpo.policy.load import enable_gradient_checkpointing, load_config, load_model, load_skeleton, load_tokenizer
from grpo.policy.shard.ranks import ALONE, Ranks
from grpo.prompts import PromptError, render
from grpo.record.atomic import write_atomic
from grpo.record.recorder import RunRecorder
from grpo.rollout.cores import share_cores
from grpo.rollout.engine import RolloutEngine
from grpo.types import Prompt
from rewards import RewardSettings, RewardSum

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from grpo.rollout.fleet.lease import Tenant
    from grpo.rollout.fleet.ray import Room

GivenReward = str | RewardSettings | Callable[..., Any]
AS_IT_STANDS = "{question}"  # the template of a prompt that is a text


@dataclass(frozen=True, slots=True)
class _Row:
    id: str
    question: str
    answer: str
    columns: Mapping[str, Any]


def given_model(model: ModelSettings | str) -> ModelSettings:
    return ModelSettings(path=model) if isinstance(model, str | Path) else model


def given_rewards(rewards: RewardSum | Sequence[GivenReward]) -> RewardSum:
    """Raises RewardError as RewardSum does. What is named runs isolated, as in the command; a function runs here."""
    if isinstance(rewards, RewardSum):
        return rewards
    settings, functions = [], {}
    for reward in [rewards] if isinstance(rewards, str) or callable(rewards) else rewards:
        if callable(reward):
            name = getattr(reward, "__name__", type(reward).__name__)
            functions[name] = reward
            settings.append(RewardSettings(name=name))
        else:
            settings.append(RewardSettings.model_validate(reward))
    return RewardSum(settings, isolate=True, functions=functions)


def given_prompts(
    rows: Sequence[Prompt] | Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    max_prompt_tokens: int,
) -> list[Prompt]:
    """Raises PromptError: a row without a question, or no row that is short enough."""
    found = list(rows)
    if found and all(isinstance(one, Prompt) for one in found):
        return found  # type: ignore[return-value]  # mypy does not narrow by all()
    prompts: list[Prompt] = []
    for number, row in enumerate(found):
        prompts += _rendered(number, row, tokenizer, template, max_prompt_tokens)
    if not prompts:
        raise PromptError(f"prompts: none of {len(found)} rows has a prompt of at most {max_prompt_tokens} tokens")
    return prompts


def _rendered(
    number: int, row: Any, tokenizer: PreTrainedTokenizerBase, template: str, max_prompt_tokens: int
) -> list[Prompt]:
    if not isinstance(row, Mapping) or not ("question" in row or "prompt" in row):
        raise PromptError(f"prompts: row {number} is {str(row)[:80]}; expected a mapping with `question` or `prompt`")
    question, answer = row.get("question", row.get("prompt")), row.get("answer")
    columns = {str(name): value for name, value in row.items() if name not in ("prompt", "answer")}
    system: str | None = None
    if not isinstance(question, str):
        system, question = _turns(number, question)
        template = "chat"
    elif "question" not in row:
        template = AS_IT_STANDS
    one = _Row(str(row.get("id", number)), question, "" if answer is None else str(answer), columns)
    return render([one], tokenizer, template, system, max_prompt_tokens=max_prompt_tokens)[0]


def _turns(number: int, messages: Any) -> tuple[str, str]:
    """The system prompt, "" for none, and the question of a conversation."""
    roles = [message.get("role") for message in messages] if isinstance(messages, list | tuple) else []
    if roles not in (["user"], ["system", "user"]):
        raise PromptError(f"prompts: row {number} has turns of {roles}, expected a user's, or a system's and a user's")
    return (messages[0]["content"] if len(messages) == 2 else ""), messages[-1]["content"]


def open_recorder(
    run_dir: Path, model: ModelSettings, config: GRPOConfig, rollout: RolloutSettings, resume: bool
) -> RunRecorder:
    """Raises ValueError where another run's records would be written over."""
    damaged = set_damaged_aside(run_dir) if resume else []
    kept = checkpoints(run_dir)
    if not resume and (kept or (run_dir / "metrics.jsonl").is_file()):
        raise ValueError(f"run_dir: {run_dir} holds a run; give resume=True to go on with it, or another folder")
    settings = {"model": model, "rollout": rollout, "train": config}
    plain = {name: one.model_dump(mode="json") for name, one in settings.items()}
    recorder = RunRecorder(run_dir, plain, config.steps, config.trackers, kept[-1][0] if resume and kept else 0)
    import yaml

    write_atomic(run_dir / "recipe.yaml", yaml.safe_dump(plain, sort_keys=False))
    for sentence in damaged:
        recorder.note(sentence)
    return recorder


def end_recorder(recorder: RunRecorder) -> None:
    """In a `finally`: the error that passes there is in the log then."""
    if isinstance(error := sys.exc_info()[1], Exception):
        recorder.failed(error)
    recorder.close()


def make_learner(
    config: GRPOConfig,
    model: ModelSettings,
    rollout: RolloutSettings,
    ranks: Ranks = ALONE,
    device: torch.device | None = None,
    objective: CrossEntropy | None = None,
    teacher: ModelSettings | None = None,
) -> Learner:
    """`objective`: None: the one that the settings describe. `teacher`: that `config` names, found to read our tokens.

    Raises ModelError: see load_model and add_adapter. ValueError for what only the command starts, or checks.
    """
    if config.processes > 1 and ranks is ALONE:
        raise ValueError(f"processes: {config.processes} are started by `zero run` or recipes.run; use 1 here")
    if config.teacher and teacher is None:
        raise ValueError("teacher: whether it reads the same tokens is checked by `zero run` or recipes.run; use these")
    device = device or default_device(config)
    read = load_config(model)
    check_kind(read, model.path, rollout.engine)
    masked = None
    if settings := rollout.masked:
        if found := list(estimate_conflicts(settings, config)):
            raise ValueError("\n".join(found))
        masked = mask_token(read, load_tokenizer(model), settings), settings
    where = device if ranks.size == 1 else torch.device("cpu")
    policy = load_model(model, where, bool(model.lora and model.lora.quantize)) if ranks.rank == 0 else None
    policy = policy if policy is not None else load_skeleton(model)
    if config.gradient_checkpointing:
        enable_gradient_checkpointing(policy)
    if model.adapted:
        policy = add_adapter(policy, model, config.seed)
    frozen = teacher or (model if config.kl_coef > 0 and not model.adapted else None)
    reference = None
    if frozen is not None:
        reference = load_model(frozen, where) if ranks.rank == 0 else load_skeleton(frozen)
    replay = rollout.routing_replay
    return Learner(config, rollout.temperature, policy, reference, ranks, device, objective, replay, masked)


def default_device(config: GRPOConfig) -> torch.device:
    """Of a trainer that is one process."""
    return torch.device("cuda", (config.gpus or [0])[0]) if torch.cuda.is_available() else torch.device("cpu")


def make_engine(
    model: ModelSettings,
    rollout: RolloutSettings,
    config: GRPOConfig,
    tokenizer: PreTrainedTokenizerBase,
    run_dir: Path,
    device: torch.device | None = None,
    trainer_gpus: Sequence[int] | None = None,
    tenant: Tenant | None = None,
    room: Room | None = None,
    threads: int = 0,
) -> RolloutEngine:
    """The engine that the settings ask for, not started.

    Args:
        device: of the in-process engine. `trainer_gpus`: that a server must leave alone.
        tenant: who holds the lease of the servers at `rollout.server.urls`; the command takes it.
        room, threads: where Ray places the servers.
    """
    device = device or default_device(config)
    check_kind(load_config(model), model.path, rollout.engine)
    if settings := rollout.masked:
        from grpo.rollout.diffusion import DiffusionEngine

        return DiffusionEngine(model, tokenizer, rollout.max_sequences, settings, device)
    if rollout.engine == "transformers":
        from grpo.rollout.local import TransformersEngine

        return TransformersEngine(model, tokenizer, rollout.max_sequences, device)
    if rollout.server.urls and tenant is None:
        raise ValueError("rollout.server.urls: attached servers are for `zero run` or recipes.run; leave them out here")
    from grpo.rollout.vllm.engine import VLLMEngine

    if trainer_gpus is None:
        trainer_gpus = [device.index or 0] if device.type == "cuda" else []
    threads = threads or share_cores(rollout, config.threads, processes=config.processes).server
    rollout = rollout.model_copy(update={"server": rollout.server.model_copy(update={"threads": threads})})
    return VLLMEngine(model.path, model, rollout, tokenizer, run_dir, trainer_gpus, tenant, room)
