"""What a recipe amounts to, computed before anything starts: batch arithmetic, memory, who runs where.

Memory, in bytes a parameter (b = 2 for bf16, 4 for fp32; P parameters, P' trained ones):

    trainer    b P weights + 12 P' gradient and two Adam states in fp32 + 4 P' fp32 masters, unless b = 4 (masters
               and weights are then one) + b P for a reference model, if the KL needs a second one
               + activations of one micro-batch: 34 b/2 x hidden x layers a token (arXiv 2205.05198, section 4.1),
               with gradient checkpointing b x hidden x layers plus one layer's
    each of    (4 P + 12 P' + 4 P for a reference) / S, S = processes / replicas; and gathered, in b: two layers, and
    several    what is in no layer (embeddings, head); + activations
    server     each of rollout.server.replicas: b P weights + KV cache (rollout/vllm/kv_cache.py) for every sequence,
               or what there is room for, at least one
    cluster    this machine is the leader's: its share of the processes has to fit; servers are counted, not checked

Rough, from the configuration alone: it is there to refuse what cannot fit, not to predict the peak.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from grpo.rollout.cores import Cores, share_cores
from grpo.rollout.vllm.gpu_only import needs_gpu
from grpo.rollout.vllm.kv_cache import ITEMSIZE, SHARE_OF_RAM, kv_bytes
from recipes.errors import InputError
from recipes.schema.cluster import servers_placed, trainer_nodes
from recipes.schema.disk import disk_in_words
from recipes.schema.load import model_settings
from recipes.schema.recipe import Recipe
from recipes.schema.sft import SFTRecipe
from recipes.schema.size import ModelSize, model_size
from rewards.sandbox import SandboxError, describe

GIB = 2**30
LIMIT_VARIABLE = "ZERO_MEMORY_LIMIT_GIB"  # overrides what is found, to plan for another machine
SERVER_PROCESSES_GIB = 1.5  # vLLM's three processes before any weight
TRAINER_PROCESS_GIB = 0.7
STORED_NF4 = 0.6  # bytes a parameter: 4 bits, their scales, and what stays in b bytes


class PlanError(InputError):
    """The recipe cannot run on this machine."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to run on. `gpu_gib` is the free memory of each GPU, by index; `gpu_total_gib`: all of it."""

    cores: int
    ram_gib: float
    gpu_gib: Mapping[int, float]
    gpu_total_gib: Mapping[int, float] = field(default_factory=dict)


def plan(recipe: Recipe, size: ModelSize | None = None, machine: Machine | None = None) -> str:
    """The derived arithmetic of a run, in aligned lines to be printed before the start.

    Raises:
        PlanError: the memory that is needed is more than there is; the message says what to reduce.
        grpo.policy.load.ModelError: no such model.
    """
    size = size or model_size(model_settings(recipe))
    machine = machine or find_machine()
    check_memory(recipe, size, machine)
    return aligned([*model_rows(recipe, size), *batch_rows(recipe), *place_rows(recipe, size, machine)])


def aligned(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {value}" for label, value in rows)


def model_rows(recipe: Recipe, size: ModelSize) -> list[tuple[str, str]]:
    return [("model", f"{recipe.model.path}, {_millions(size)}, {recipe.model.dtype}")]


def batch_rows(recipe: Recipe) -> list[tuple[str, str]]:
    """What follows from the recipe alone."""
    rollout, train = recipe.rollout, recipe.train
    completions = rollout.prompts_per_step * rollout.group_size
    longest = rollout.max_prompt_tokens + rollout.max_tokens
    played, masked = recipe.task and recipe.task.environment, rollout.masked
    rows = completions * _rows(recipe)
    return [
        ("step", f"{rollout.prompts_per_step} prompts x {rollout.group_size} = {completions} completions"),
        *([("tasks", _shares(recipe))] if recipe.tasks else []),
        *([("episodes", f"with {played.name}, at most {played.max_turns} replies each")] if played else []),
        (
            "tokens a step",
            f"at most {completions * rollout.max_tokens:,} sampled, {completions * longest:,} with prompts",
        ),
        *(
            [("passes", f"{masked.passes(rollout.max_tokens)} write a completion, {rows:,} rows train")]
            if masked
            else []
        ),
        ("updates", f"{train.steps} steps x {train.updates_per_batch} = {train.steps * train.updates_per_batch}"),
        ("micro-batches", f"at most {_micro_batches(rows, longest, train.tokens_per_micro_batch)} an update"),
    ]


def _shares(recipe: Recipe) -> str:
    tasks = recipe.tasks or {}
    total = sum(task.share for task in tasks.values())
    return "of the prompts " + ", ".join(f"{name} {task.share / total:.1%}" for name, task in tasks.items())


def place_rows(recipe: Recipe, size: ModelSize, machine: Machine) -> list[tuple[str, str]]:
    rollout, train, server = recipe.rollout, recipe.train, recipe.rollout.server
    trainer_gib, sampler_gib = _trainer_gib(recipe, size), _sampler_gib(recipe, size, machine)
    trainer_place, sampler_place = _places(recipe, machine)
    all_gib = sampler_gib * server.replicas
    return [
        ("trainer", f"{trainer_place}, about {trainer_gib:.1f} GiB{' each' if train.processes > 1 else ''}"),
        ("sampler", f"{rollout.engine}: {sampler_place}" + ("" if server.urls else f", about {all_gib:.1f} GiB")),
        *_programs(recipe),
        ("disk", disk_in_words(recipe, size)),
        ("machine", _describe(machine)),
    ]


def _programs(recipe: Recipe) -> list[tuple[str, str]]:
    """What keeps the model's programs in, of a recipe that runs them."""
    settings = [task.code for task in recipe.named_tasks.values() if task.verifier == "code"]
    settings += [reward.args for reward in recipe.rewards if reward.name == "code"]
    try:
        return [("programs", describe(settings[0].get("sandbox", "auto")))] if settings else []
    except (SandboxError, ValueError) as error:
        raise PlanError(str(error)) from error


def sft_plan(recipe: SFTRecipe, steps: int, examples: int, machine: Machine | None = None) -> str:
    """As `plan`, of a supervised run on so many examples."""
    machine, train = machine or find_machine(), recipe.train
    shared = recipe.for_update(steps)
    size = model_size(model_settings(shared))
    batch = {"prompts_per_step": train.batch_size, "group_size": 1, "max_prompt_tokens": 0}
    step = shared.rollout.model_copy(update=batch | {"max_tokens": train.max_length})
    trainer_gib = _trainer_gib(shared.model_copy(update={"rollout": step}), size)
    sampler_gib = _sampler_gib(shared, size, machine) if recipe.task else 0.0
    _check_places(shared, machine, trainer_gib, sampler_gib)
    trainer_place, sampler_place = _places(shared, machine)
    each = " each" if train.processes > 1 else ""
    rows = [
        ("model", f"{recipe.model.path}, {_millions(size)}, {recipe.model.dtype}"),
        ("step", f"{train.batch_size} examples, at most {train.batch_size * train.max_length:,} tokens"),
        ("updates", f"{steps} steps, {steps * train.batch_size / examples:.2f} epochs"),
        ("trainer", f"{trainer_place}, about {trainer_gib:.1f} GiB{each}"),
        ("sampler", f"{recipe.rollout.engine}: {sampler_place}" if recipe.task else "none: no task to measure"),
        ("machine", _describe(machine)),
    ]
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {value}" for label, value in rows)


def _millions(size: ModelSize) -> str:
    trained = f", {size.adapter_parameters / 1e6:.1f}M trained (adapter)" if size.adapter_parameters else ""
    return f"{size.parameters / 1e6:,.1f}M parameters{trained}"


def _rows(recipe: Recipe) -> int:
    """Of a completion in training: a masked model has one for each pass."""
    masked = recipe.rollout.masked
    return masked.passes(recipe.rollout.max_tokens) if masked and masked.exact else 1


def _micro_batches(rows: int, longest: int, tokens: int) -> int:
    return -(-rows // max(tokens // longest, 1))


def _places(recipe: Recipe, machine: Machine) -> tuple[str, str]:
    train, server = recipe.train, recipe.rollout.server
    if not machine.gpu_gib:
        cores = share_cores(recipe.rollout, train.threads, machine.cores, train.processes)
        if recipe.cluster.address:
            asked = recipe.cluster
            cores = Cores(server.threads or asked.cpus_per_server, train.threads or asked.cpus_per_process)
        trainer, sampler = f"CPU, {cores.trainer} threads", f"CPU, {cores.server} threads"
        trainer += f" in each of {train.processes} processes" if train.processes > 1 else ""
        sampler += " each" if server.replicas > 1 else ""
    elif servers_placed(recipe):
        trainer = f"{train.processes} GPUs"
        sampler = f"{recipe.cluster.gpus_per_server or server.tensor_parallel} GPUs each"
    else:
        gpus = _trainer_gpus(recipe)
        trainer = f"GPU {', '.join(map(str, gpus))}"
        sampler = f"GPU {', '.join(map(str, _server_gpus(recipe, machine)))}"
    if recipe.rollout.engine != "vllm":
        return trainer, "in the trainer's process"
    if recipe.cluster.address:
        trainer += f", on {trainer_nodes(recipe)} machines" if trainer_nodes(recipe) > 1 else ""
    if server.urls:
        return trainer, f"servers at {', '.join(server.urls)}"
    if servers_placed(recipe):
        return trainer, f"{server.replicas} placed by Ray, {sampler}"
    return trainer, f"{server.replicas} servers, {sampler}" if server.replicas > 1 else sampler


def _trainer_gpus(recipe: Recipe) -> list[int]:
    """On this machine."""
    return recipe.train.gpus or list(range(_processes_here(recipe)))


def _processes_here(recipe: Recipe) -> int:
    return recipe.train.processes // (trainer_nodes(recipe) if recipe.cluster.address else 1)


def _server_gpus(recipe: Recipe, machine: Machine) -> list[int]:
    """The GPUs that the recipe names, else all that the trainer leaves, else the trainer's."""
    others = [gpu for gpu in machine.gpu_gib if gpu not in _trainer_gpus(recipe)]
    return recipe.rollout.server.gpus or others or _trainer_gpus(recipe)


# -- Memory -------------------------------------------------------------------------------------------------------


def _itemsize(recipe: Recipe) -> int:
    return ITEMSIZE[recipe.model.dtype]


def _trainer_gib(recipe: Recipe, size: ModelSize) -> float:
    """Of each process."""
    train, b = recipe.train, _itemsize(recipe)
    trained = size.adapter_parameters or size.parameters
    stored = STORED_NF4 if recipe.model.lora and recipe.model.lora.quantize else b
    weights = stored * size.parameters + (0 if b == 4 and not size.adapter_parameters else 4 * trained)
    reference = b * _reference_parameters(recipe, size)
    kept = weights + 12 * trained + reference
    if train.processes > 1:
        sharded = size.parameters + _reference_parameters(recipe, size)
        gathered = b * (size.outside_layers + 2 * (size.parameters - size.outside_layers) / size.layers)
        kept = (4 * sharded + 12 * trained) * train.replicas / train.processes + gathered
    tokens = max(train.tokens_per_micro_batch, recipe.rollout.max_prompt_tokens + recipe.rollout.max_tokens)
    tokens = min(tokens, _step_tokens(recipe))
    layer = 34 * b // 2 * size.hidden * tokens
    activations = (
        layer + b * size.hidden * size.layers * tokens if train.gradient_checkpointing else layer * size.layers
    )
    return (kept + activations) / GIB + TRAINER_PROCESS_GIB


def _reference_parameters(recipe: Recipe, size: ModelSize) -> int:
    """Of a second model: the reference of the KL, or the teacher, which one of the policy's size stands for here."""
    train = recipe.train
    return size.parameters if train.teacher or (train.kl_coef and not size.adapter_parameters) else 0


def _step_tokens(recipe: Recipe) -> int:
    rollout = recipe.rollout
    tokens = rollout.prompts_per_step * rollout.group_size * (rollout.max_prompt_tokens + rollout.max_tokens)
    return _rows(recipe) * tokens


def _sampler_gib(recipe: Recipe, size: ModelSize, machine: Machine) -> float:
    """Weights and cache of one server. One whose cache is too small for all sequences decodes fewer of them at once."""
    rollout, server, b = recipe.rollout, recipe.rollout.server, _itemsize(recipe)
    fixed = b * size.parameters / GIB + (SERVER_PROCESSES_GIB if rollout.engine == "vllm" else 0)
    room = SHARE_OF_RAM * machine.ram_gib / (1 if servers_placed(recipe) else server.replicas)
    if machine.gpu_gib:
        share = min(_server_share(recipe, machine, gpu) for gpu in machine.gpu_gib)
        room = share * server.tensor_parallel - fixed
    tokens = rollout.max_prompt_tokens + rollout.max_tokens
    cache = kv_bytes(size.layers, size.kv_width, recipe.model.dtype, rollout.max_sequences, tokens, room * GIB)
    return fixed + (server.kv_cache_gib or cache / GIB)


def check_memory(recipe: Recipe, size: ModelSize, machine: Machine) -> None:
    """Raises PlanError if the machine cannot hold the run."""
    if recipe.model.lora and recipe.model.lora.quantize and not machine.gpu_gib:
        raise PlanError(
            f"model.lora.quantize: {recipe.model.lora.quantize} needs a CUDA GPU, and this machine has none; "
            "leave it out"
        )
    ours = recipe.rollout.engine == "vllm" and not recipe.rollout.server.urls and not servers_placed(recipe)
    if ours and not machine.gpu_gib and (why := needs_gpu(recipe.rollout)):
        raise PlanError(why)
    _check_places(recipe, machine, _trainer_gib(recipe, size), _sampler_gib(recipe, size, machine))


def _check_places(recipe: Recipe, machine: Machine, trainer: float, sampler: float) -> None:
    for place, needed, there in _needs(recipe, machine, trainer, sampler):
        if needed > there:
            raise PlanError(
                f"too little memory: {place} has {there:.1f} GiB, the run needs about {needed:.1f} "
                f"(trainer {trainer:.1f}, sampler {sampler:.1f}). Reduce rollout.max_sequences, rollout.max_tokens, "
                "rollout.server.replicas, kv_cache_gib or gpu_memory_utilization, or train.tokens_per_micro_batch; set "
                "train.gradient_checkpointing: true or model.lora: {r: 16}; or take a smaller model"
            )


def _needs(recipe: Recipe, machine: Machine, trainer: float, sampler: float) -> Iterator[tuple[str, float, float]]:
    """(place, GiB needed, GiB there) for everything that has to hold a part of the run."""
    server, in_process = recipe.rollout.server, recipe.rollout.engine != "vllm"
    elsewhere = bool(server.urls) or servers_placed(recipe)
    if not machine.gpu_gib:
        trainers = trainer * _processes_here(recipe)
        yield "this machine", trainers + (0 if elsewhere else sampler * server.replicas), machine.ram_gib
        return
    trainer_gpus = _trainer_gpus(recipe)
    server_gpus = [] if elsewhere or in_process else _server_gpus(recipe, machine)
    if missing := sorted({*trainer_gpus, *server_gpus} - set(machine.gpu_gib)):
        raise PlanError(f"no GPU {', '.join(map(str, missing))} here; the machine has {_describe(machine)}")
    if len(server_gpus) % (server.replicas * server.tensor_parallel):
        raise PlanError(
            f"rollout.server: {server.replicas} replicas x tensor_parallel {server.tensor_parallel} do not divide the "
            f"servers' {len(server_gpus)} GPUs ({', '.join(map(str, server_gpus))}); name others in rollout.server.gpus"
        )
    for gpu in trainer_gpus:
        taken = sampler if in_process else _server_share(recipe, machine, gpu) if gpu in server_gpus else 0
        yield f"GPU {gpu}", trainer + taken, machine.gpu_gib[gpu]
    for gpu in server_gpus:
        share = _server_share(recipe, machine, gpu)
        if gpu not in trainer_gpus:
            yield f"GPU {gpu}", share, machine.gpu_gib[gpu]
        yield f"the server's share of GPU {gpu}", sampler / server.tensor_parallel, share


def _server_share(recipe: Recipe, machine: Machine, gpu: int) -> float:
    """GiB. vLLM takes its share of a GPU's whole memory, needed or not, and does not start where less is free."""
    return recipe.rollout.server.gpu_memory_utilization * machine.gpu_total_gib.get(gpu, machine.gpu_gib[gpu])


# -- What there is ------------------------------------------------------------------------------------------------


def find_machine() -> Machine:
    import psutil
    import torch

    gpus = {i: torch.cuda.mem_get_info(i) for i in range(torch.cuda.device_count())}  # (free, total), bytes
    limit = os.environ.get(LIMIT_VARIABLE)
    ram = float(limit) if limit else min(psutil.virtual_memory().available, _container_limit()) / GIB
    free, total = ({i: float(limit) if limit else both[n] / GIB for i, both in gpus.items()} for n in (0, 1))
    return Machine(len(os.sched_getaffinity(0)), ram, free, total)


def _container_limit() -> float:
    """Bytes that the container may use (cgroup v2); infinite outside one."""
    file = Path("/sys/fs/cgroup/memory.max")
    text = file.read_text().strip() if file.is_file() else "max"
    return float("inf") if text == "max" else float(text)


def _describe(machine: Machine) -> str:
    gpus = ", ".join(f"GPU {i}: {gib:.0f} GiB free" for i, gib in machine.gpu_gib.items()) or "no GPU"
    return f"{machine.cores} cores, {machine.ram_gib:.1f} GiB free, {gpus}"
