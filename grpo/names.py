"""The names that a recipe gives to what `grpo` computes. Formulas and papers stand where each is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

CorrectionKind = Literal["none", "truncate", "mask", "decoupled", "sequence_truncate", "sequence_mask", "coupled"]
KLEstimator = Literal["k1", "k2", "k3"]
AdvantageKind = Literal["group_std", "group_mean", "leave_one_out", "batch_std", "batch_reward_std", "gdpo", "teacher"]
ADVANTAGE_KINDS: tuple[str, ...] = get_args(AdvantageKind)
Normaliser = Literal["sequence", "constant", "token"]
# What vLLM itself rounds weights to as it loads them, by its names.
Quantization = Literal[
    "fp8",
    "fp8_per_tensor",
    "fp8_per_block",
    "fp8_per_channel",
    "int8_per_channel_weight_only",
    "mxfp8",
    "nvfp4_per_token",
]

# Each loss, with the normaliser that its paper has. One's own loss takes the token mean.
NORMALISERS: Mapping[str, Normaliser] = {
    "grpo": "sequence",
    "bnpo": "token",
    "dr_grpo": "constant",
    "dapo": "token",
    "cispo": "token",
    "gspo": "sequence",
    "gspo_token": "sequence",
    "sapo": "sequence",
    "reinforce": "constant",
}
