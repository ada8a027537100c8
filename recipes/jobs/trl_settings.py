"""A recipe's settings in TRL's words, for `train.backend: trl`.

Settings that TRL has no counterpart for are refused; those that only say how we run (the engine and its server, the
correction for an engine that computes other log-probs) are left out, and the run says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

os.environ.setdefault("DO_NOT_TRACK", "1")  # TRL reports its use to the hub
import trl

from grpo.config import Settings
from recipes.schema.load import RecipeError
from recipes.schema.recipe import Recipe

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


def adamw_arguments(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """`train.optimizer` in transformers' words."""
    arguments = {ADAMW[key]: value for key, value in optimizer.items() if key in ADAMW}
    if betas := optimizer.get("betas"):
        arguments |= {"adam_beta1": betas[0], "adam_beta2": betas[1]}
    return arguments


def trl_config(recipe: Recipe, output: Path, longest_prompt: int) -> trl.GRPOConfig:
    """The recipe in TRL's words."""
    rollout, config = recipe.rollout, recipe.train
    completions = rollout.group_size * rollout.prompts_per_step
    rows = micro_batch(completions, longest_prompt + rollout.max_tokens, config.tokens_per_micro_batch)
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
        **adamw_arguments(config.optimizer),
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # else transformers spreads the batch over every GPU in sight
    return arguments
