"""How large a model is, from its configuration alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from grpo.config import ModelSettings
from grpo.rollout.vllm.kv_cache import kv_width


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What memory depends on. Example: SmolLM2-135M is ModelSize(134_515_008, 0, 576, 30, 192)."""

    parameters: int
    adapter_parameters: int  # 0 without an adapter
    hidden: int
    layers: int
    kv_width: int  # KV heads x head size
    outside_layers: int = 0  # of the parameters: embeddings, head


def model_size(model: ModelSettings) -> ModelSize:
    """Sizes from the model's configuration; no weight is read.

    Raises:
        grpo.policy.load.ModelError: no such model.
    """
    from grpo.policy.load import load_skeleton

    meta = load_skeleton(model)
    text = meta.config.get_text_config()
    sizes = {name: parameter.numel() for name, parameter in meta.named_parameters()}
    return ModelSize(
        parameters=sum(sizes.values()),
        adapter_parameters=_adapter_parameters(meta, model) if model.adapted else 0,
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        kv_width=kv_width(text),
        outside_layers=sum(size for name, size in sizes.items() if not re.search(r"\.\d+\.", name)),
    )


def _adapter_parameters(meta: Any, model: ModelSettings) -> int:
    """Trained parameters of the adapter, laid out over the model without weights; refuses what peft refuses."""
    from grpo.policy.adapters import add_adapter

    parameters = sum(p.numel() for p in meta.parameters())
    try:
        policy = add_adapter(meta, model)
    except NotImplementedError:  # a few kinds of peft's read the weights to lay themselves out
        return parameters // 100
    return sum(p.numel() for p in policy.parameters() if p.requires_grad)
