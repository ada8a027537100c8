"""A recipe: everything that a training run is made of.

Each package owns its part; this module adds the task and what the parts must agree on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from eval.config import EvalSettings
from eval.problems.data import BOXED, checked_pattern
from eval.problems.puzzles import entries
from grpo.adapter_kinds import NOT_BY_VLLM
from grpo.config import GRPOConfig, ModelSettings, Positive, RolloutSettings, Settings
from grpo.environments.settings import EnvironmentSettings
from recipes.schema import cluster, diffusion
from recipes.schema.cluster import ClusterSettings
from recipes.schema.mixture import mixture_conflicts
from rewards import RewardSettings
from rewards.nearest import did_you_mean
from rewards.registry import reads_answers
from rewards.verifier.extract import Place

GENERATED = ("arithmetic", "countdown", "reasoning_gym")
CODE = ("language", "tolerance", "tests_format", "sandbox", "limits")  # of the reward `code`: all but `partial`
MOVES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # peft's starts of LoRA that change the frozen weights


class Columns(Settings):
    """The dataset's columns that hold a problem and its gold answer."""

    question: str
    answer: str | None = None  # of a code task, a program that passes; only there it may be absent
    tests: str | None = None  # of a code task, where they are not in the columns of a published format


class TaskSettings(Settings):
    """Where problems come from and how the model sees them.

    Give `name`, or `dataset` with its `columns`, or an `environment`, which may also go with either.
    """

    name: Literal["gsm8k", "math", "countdown", "arithmetic", "reasoning_gym"] | None = None
    path: str | None = None  # gsm8k and math: a local folder with SPLIT.jsonl files, or another hub id
    dataset: str | None = None  # hub id, .jsonl, .parquet or .csv file, or a folder of them
    subset: str | None = None  # the hub's configuration name
    split: str | None = None  # to train on; None: train
    held_out_split: str | None = None  # None: test or validation, else a tenth of `split` chosen by hash
    columns: Columns | None = None
    answer_pattern: str | None = None  # "boxed", or a regex: group 1 of its last match in the answer column is the gold
    question_pattern: str | None = None  # a regex: the model sees group 1 of its first match in the question
    environment: EnvironmentSettings | None = None  # of several turns; its name alone is {name: NAME}
    config: dict[str, Any] = Field(default_factory=dict)  # of a generated task (eval/problems/generated.py, puzzles.py)
    problems: Positive | None = None  # training problems; None: all, or 4096 generated ones
    # None: the task's own, else math; none: of one of several tasks, nothing decides what is right
    verifier: Literal["math", "countdown", "multiple_choice", "number", "code", "reasoning_gym", "none"] | None = None
    code: dict[str, Any] = Field(default_factory=dict)  # of verifier: code, as its reward's args
    text_golds: bool = True  # false: leave out rows whose gold answer can be compared only as text, letter by letter
    read: list[Place] | None = Field(None, min_length=1)  # where an answer may stand; None: <answer>, \boxed or ####
    template: str = "r1_zero"  # r1_zero (base models), chat (chat models) or a text that contains {question}
    system: str | None = None  # chat: the system prompt; None: ask for <think> and <answer>; "": none
    instruction: str | None = None  # appended to every question
    prefill: str | None = None  # how the answer starts, after what the template itself opens
    seed: int | None = None  # of generated problems and held-out choice; None: train.seed

    @field_validator("template")
    @classmethod
    def _template(cls, template: str) -> str:
        if template not in ("r1_zero", "chat") and "{question}" not in template:
            raise ValueError(f"got {template!r}, expected r1_zero, chat, or a text that contains {{question}}")
        return template

    @field_validator("question_pattern")
    @classmethod
    def _question_pattern(cls, pattern: str | None) -> str | None:
        if pattern == BOXED:
            raise ValueError("got 'boxed', which answers are; expected a regex with one group, around the question")
        return checked_pattern(pattern, "the question")

    @field_validator("answer_pattern")
    @classmethod
    def _pattern(cls, pattern: str | None) -> str | None:
        return checked_pattern(pattern)

    @model_validator(mode="before")
    @classmethod
    def _environment(cls, task: Any) -> Any:
        """environment: NAME, with `config` beside it where no `name` takes that."""
        if not isinstance(task, dict) or not isinstance(task.get("environment"), str):
            return task
        environment = {"name": task["environment"]}
        if "config" in task and not task.get("name"):
            environment["config"] = task["config"]
            task = {key: value for key, value in task.items() if key != "config"}
        return {**task, "environment": environment}

    @model_validator(mode="after")
    def _coherent(self) -> TaskSettings:
        _refuse(_task_conflicts(self))
        return self


class SharedTask(TaskSettings):
    """One of several tasks of a run."""

    share: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0  # of the prompts, next to the other tasks' shares
    template: str  # as of one task; here it must be given, because the tasks may need different ones


class Recipe(Settings):
    """One GRPO run. `zero run` takes its YAML form."""

    kind: Literal["grpo"] = "grpo"
    model: ModelSettings
    task: TaskSettings | None
    tasks: dict[str, SharedTask] | None = Field(default=None, min_length=1)  # several, by name, in the place of task
    rewards: list[RewardSettings] = Field(min_length=1)
    rollout: RolloutSettings = Field(default_factory=RolloutSettings)
    train: GRPOConfig = Field(default_factory=GRPOConfig)
    eval: EvalSettings = Field(default_factory=EvalSettings)
    cluster: ClusterSettings = Field(default_factory=ClusterSettings)

    @model_validator(mode="before")
    @classmethod
    def _several(cls, recipe: Any) -> Any:
        """Only tasks may stand in the place of task."""
        return {"task": None, **recipe} if isinstance(recipe, dict) and recipe.get("tasks") is not None else recipe

    @model_validator(mode="after")
    def _coherent(self) -> Recipe:
        _refuse(mixture_conflicts(self.task, self.tasks, self.rewards, self.train.backend))
        _refuse(chain(_conflicts(self), cluster.conflicts(self), diffusion.conflicts(self)))
        return self

    @property
    def only_task(self) -> TaskSettings:
        """Of a recipe with one task."""
        assert self.task is not None
        return self.task

    @property
    def named_tasks(self) -> Mapping[str, TaskSettings]:
        """Every task; the name of an only one is ""."""
        return self.tasks or {"": self.only_task}

    def of_task(self, name: str) -> Recipe:
        """As if the named task were the only one."""
        if not self.tasks:
            return self
        rewards = [one.model_copy(update={"tasks": None}) for one in self.rewards if one.scores(name)]
        return self.model_copy(update={"task": self.tasks[name], "tasks": None, "rewards": rewards})


def _refuse(conflicts: Iterator[str]) -> None:
    if found := list(conflicts):
        raise ValueError("\n".join(found))


def _task_conflicts(task: TaskSettings) -> Iterator[str]:
    if (task.name is None) == (task.dataset is None) and (task.name or not task.environment):
        given = "both" if task.name else "neither"
        names = ", ".join(GENERATED)
        yield f"name and dataset: got {given}, expected one: name (gsm8k, math, {names}) or dataset; or an environment"
    yield from _environment_conflicts(task)
    if task.dataset and not task.columns:
        yield "columns: required with dataset, as columns: {question: NAME, answer: NAME}"
    if task.columns and not task.columns.answer and task.verifier not in ("code", "none"):
        yield "columns.answer: required, unless verifier: code, whose tests are in columns of their own"
    if task.verifier == "none" and not isinstance(task, SharedTask):
        yield "verifier: none is for one of several tasks (tasks), because with no other nothing would be measured"
    if task.columns and task.columns.tests and task.verifier != "code":
        yield "columns.tests: only verifier: code has tests"
    if task.code and task.verifier != "code":
        yield f"code: only verifier: code takes settings, got verifier: {task.verifier or 'math'}"
    for key in sorted(set(task.code) - set(CODE)):
        yield f"code.{key}: unknown key{did_you_mean(key, CODE)}; allowed here: {', '.join(CODE)}"
    if task.read and task.verifier == "code":
        yield "read: a program is the last fenced block; leave read out"
    if task.path and task.name not in ("gsm8k", "math"):
        yield "path: only gsm8k and math have one; for other data use dataset"
    if task.config and task.name not in GENERATED:
        yield f"config: only generated tasks ({', '.join(GENERATED)}) take one"
    if task.name in GENERATED:
        for key in ("subset", "split", "held_out_split", "columns", "answer_pattern"):
            if getattr(task, key) is not None:
                yield f"{key}: has no meaning for {task.name}, whose problems are generated"
    if not task.text_golds and (task.name in GENERATED or task.verifier not in (None, "math")):
        yield "text_golds: only data sets that the verifier math grades have such gold answers"
    if task.name == "reasoning_gym":
        yield from _puzzle_conflicts(task.config)
    if task.held_out_split and task.held_out_split == (task.split or "train"):
        yield f"held_out_split: {task.held_out_split!r} is the split that is trained on; name another, or none"
    if task.system is not None and task.template != "chat":
        yield "system: only template: chat has a system prompt; put the text into the template"


def _puzzle_conflicts(config: dict[str, Any]) -> Iterator[str]:
    try:
        entries(config)
    except ValueError as problem:
        yield from (f"config.{line}" if re.match(r"datasets?\b|levels\b", line) else f"config: {line}"
                    for line in str(problem).split("\n"))  # fmt: skip


def _environment_conflicts(task: TaskSettings) -> Iterator[str]:
    environment = task.environment
    if environment and environment.turn_template and task.template == "chat":
        yield "environment.turn_template: template: chat goes on as the model's chat template does; leave it out"
    if environment and not task.name and not task.dataset:
        for key in ("subset", "split", "held_out_split", "columns", "answer_pattern", "question_pattern"):
            if getattr(task, key) is not None:
                yield f"{key}: an environment that makes its own problems has none; give a dataset, or no {key}"


def _reward_conflicts(recipe: Recipe, name: str, task: TaskSettings) -> Iterator[str]:
    key = f"tasks.{name}" if name else "task"
    for i, reward in enumerate(recipe.rewards):
        if not reward.scores(name):
            continue
        if reward.name == "environment" and not task.environment:
            yield f"rewards.{i}: environment is the score of task.environment, and there is none; give one"
        args = {key: value for key, value in reward.args.items() if key != "partial"}
        if task.verifier == reward.name == "code" and args != task.code:
            yield (
                f"rewards.{i}.args: got {reward.args}, {key}.code is {task.code}; give both the same, but for partial, "
                "so that training and evaluation run programs alike"
            )
        if reads_answers(reward.name) and reward.args.get("read") != task.read:
            yield (
                f"rewards.{i}.args.read: got {reward.args.get('read')}, {key}.read is {task.read}; give both the same, "
                "so that training and evaluation read answers alike"
            )


def _too_few_problems(recipe: Recipe, name: str, task: TaskSettings) -> Iterator[str]:
    per_step = recipe.rollout.prompts_per_step
    if not name and task.problems and task.problems < per_step:
        yield (
            f"task.problems: got {task.problems}, expected at least rollout.prompts_per_step "
            f"({per_step}): a step takes each problem once"
        )
    if recipe.tasks and task.problems:
        part = recipe.tasks[name].share / sum(one.share for one in recipe.tasks.values())
        if task.problems < (most := math.ceil(part * per_step)):
            yield (
                f"tasks.{name}.problems: got {task.problems}, expected at least {most}, its share of "
                f"rollout.prompts_per_step ({per_step}): a step takes each problem once"
            )


def _conflicts(recipe: Recipe) -> Iterator[str]:
    rollout, train, server = recipe.rollout, recipe.train, recipe.rollout.server
    for name, task in recipe.named_tasks.items():
        yield from _reward_conflicts(recipe, name, task)
        yield from _too_few_problems(recipe, name, task)
    if recipe.task and recipe.task.environment and train.backend == "trl":
        yield "task.environment: train.backend: trl samples one reply; use backend: zero"
    if rollout.group_size == 1:
        yield "rollout.group_size: a group of 1 is its own baseline, every advantage would be 0; use 2 or more"
    if rollout.max_staleness and rollout.engine != "vllm":
        yield (
            f"rollout.max_staleness: got {rollout.max_staleness}, but engine: {rollout.engine} samples and trains in "
            "turn; use 0, or engine: vllm"
        )
    if rollout.max_staleness and train.correction == "none" and train.stale_correction is None:
        yield (
            f"train.correction: none with rollout.max_staleness: {rollout.max_staleness} trains on stale samples as "
            "if they were fresh; use truncate, or max_staleness: 0, or say stale_correction: none to mean it"
        )
    if train.warmup_steps > train.steps:
        yield f"train.warmup_steps: got {train.warmup_steps}, expected at most train.steps ({train.steps})"
    if server.gpus and len(server.gpus) % server.tensor_parallel:
        yield (
            f"rollout.server.tensor_parallel: got {server.tensor_parallel}, expected a divisor of the number of "
            f"rollout.server.gpus ({len(server.gpus)})"
        )
    shared = sorted(set(train.gpus) & set(server.gpus))
    if shared and server.weight_transfer == "nccl":
        yield (
            f"rollout.server.gpus: {shared} are the trainer's too, where weight_transfer: nccl cannot work; use ipc, "
            "or other GPUs"
        )
    if server.weight_dir and server.weight_transfer != "files":
        yield (
            f"rollout.server.weight_dir: weights go there by weight_transfer: files only, got {server.weight_transfer}"
        )
    if recipe.eval.max_tokens and recipe.eval.max_tokens > rollout.max_tokens and rollout.engine == "vllm":
        yield (
            f"eval.max_tokens: got {recipe.eval.max_tokens}, expected at most rollout.max_tokens "
            f"({rollout.max_tokens}): the server's context is made for that"
        )
    lora = recipe.model.lora
    if lora and lora.sync == "adapter" and rollout.engine != "vllm":
        yield f"model.lora.sync: engine: {rollout.engine} has one set of weights; use merged, or engine: vllm"
    if (adapter := recipe.model.adapter) and recipe.model.prompted:
        if rollout.engine == "vllm":
            yield f"model.adapter.peft_type: {adapter.peft_type} {NOT_BY_VLLM}"
        if train.processes > 1:
            yield f"train.processes: the vectors of {adapter.peft_type} are not sharded; use 1"
    if train.router_bias_update_rate and recipe.model.adapted:
        yield "train.router_bias_update_rate: the folder of an adapter does not hold the bias; use 0, or no adapter"
    if train.kl_sync_every and recipe.model.adapted:
        yield (
            f"train.kl_sync_every: got {train.kl_sync_every}, but with an adapter the reference is the model without "
            "it; use 0, or no adapter"
        )
    start = (recipe.model.adapter.model_extra or {}).get("init_lora_weights") if recipe.model.adapter else None
    if train.kl_coef and str(start).lower().startswith(MOVES_BASE):
        yield (
            f"train.kl_coef: the reference is the model without its adapter, but init_lora_weights: {start} takes what "
            "the adapter starts with out of the weights; use 0, or another start"
        )
    if server.quantization and (server.urls or rollout.engine != "vllm"):
        yield (
            "rollout.server.quantization: it is for vLLM servers of our own; leave it out, and start a server of yours "
            "with --quantization"
        )
    if rollout.routing_replay and recipe.model.prompted:
        yield "rollout.routing_replay: vectors that stand before the prompt are routed, too; leave it out"
    if server.urls and rollout.engine != "vllm":
        yield f"rollout.server.urls: engine: {rollout.engine} has no server; use engine: vllm, or no urls"
    if server.replicas > 1 and (server.urls or rollout.engine != "vllm"):
        yield (
            f"rollout.server.replicas: {server.replicas} servers of our own are started where engine is vllm and urls "
            "is empty; leave replicas out, or urls"
        )
