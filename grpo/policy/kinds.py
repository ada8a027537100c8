"""Which kind of language model a checkpoint is: causal, or masked; by what it was saved as."""

from __future__ import annotations

import re
from typing import Any

from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from grpo.config import ModelError

MASKED = r"MaskedLM|LLaDA"  # in the name of an architecture
SHIFTED = "Dream"  # a masked model whose logits are those of the next position
CAUSAL = r"CausalLM|LMHeadModel|ForConditionalGeneration"


def architecture(config: Any) -> str:
    """Its name, or the kind of configuration where the checkpoint does not say."""
    return ", ".join(config.architectures or []) or str(config.model_type)


def is_masked(config: Any) -> bool:
    return bool(re.search(f"{MASKED}|{SHIFTED}", architecture(config)))


def class_of(config: Any) -> Any:
    """transformers' class that loads it; of a masked model with code of its own (LLaDA's), the first that it names."""
    if not is_masked(config):
        return AutoModelForCausalLM
    classes: list[Any] = [AutoModelForMaskedLM, AutoModelForCausalLM, AutoModel]
    named = getattr(config, "auto_map", None) or {}
    return next((one for one in classes if one.__name__ in named), AutoModelForMaskedLM)


def check_kind(config: Any, path: str, engine: str) -> None:
    """Raises ModelError where `rollout.engine` cannot sample from such a model."""
    name, masked = architecture(config), is_masked(config)
    if engine != "diffusion" and masked:
        raise ModelError(
            f"model.path: {path} is {name}, a masked language model, which is sampled and trained with rollout.engine: "
            f"diffusion alone; with engine: {engine} expected a causal language model"
        )
    if engine == "diffusion" and re.search(SHIFTED, name):
        raise ModelError(
            f"model.path: {path} is {name}, whose logits are those of the next position; engine: diffusion takes "
            "masked models whose positions predict themselves (LLaDA, BERT, EuroBERT)"
        )
    if engine == "diffusion" and not masked and re.search(CAUSAL, name) and not getattr(config, "auto_map", None):
        raise ModelError(
            f"model.path: {path} is {name}, which reads from left to right; engine: diffusion needs a masked language "
            "model (LLaDA, BERT, EuroBERT); for this one use engine: vllm, or transformers"
        )
