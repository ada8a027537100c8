"""What vLLM 0.32 does on a GPU alone. Its CPU build has neither the model runner that keeps routed experts (it needs
Triton) nor kernels that compute with weights which were rounded as they were loaded."""

from __future__ import annotations

from grpo.config import RolloutSettings


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
