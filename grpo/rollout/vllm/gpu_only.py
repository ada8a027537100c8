"""What vLLM 0.32 does on a GPU alone. Its CPU build has neither the model runner that keeps routed experts (it needs
Triton) nor kernels that compute with weights which were rounded as they were loaded."""

from __future__ import annotations

from collections.abc import Mapping

from grpo.config import RolloutSettings
from grpo.names import Quantization

# Half a step of its numbers, relative: of 3 bits of mantissa, of 127 steps, of 1 bit.
ROUNDING: Mapping[Quantization, float] = {
    **dict.fromkeys(("fp8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel", "mxfp8"), 2**-4),
    "int8_per_channel_weight_only": 2**-8,
    "nvfp4_per_token": 2**-2,
}


def needs_gpu(rollout: RolloutSettings) -> str:
    """Why a server of ours cannot run on a CPU, and what to do; "" if it can."""
    if rollout.routing_replay:
        return (
            "rollout.routing_replay: vLLM says which experts it used on a GPU alone, and there is none here; use "
            "rollout.engine: transformers, or leave it out"
        )
    if kind := rollout.server.quantization:
        return (
            f"rollout.server.quantization: vLLM rounds to {kind} on a GPU alone, and there is none here; leave it out"
        )
    return ""


def gpu_arguments(rollout: RolloutSettings) -> list[str]:
    """Of vLLM's command line."""
    line = ["--enable-return-routed-experts"] if rollout.routing_replay else []
    return line + (["--quantization", kind] if (kind := rollout.server.quantization) else [])
