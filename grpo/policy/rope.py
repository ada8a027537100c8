"""Positions beyond those that a checkpoint was trained for: its configuration with `model.rope_scaling` applied.

Trainer, in-process engine and checkpoints take the configuration itself, the vLLM server what it differs by.

`dynamic` departs from transformers, whose frequencies follow the longest sequence that was seen last: a token's
log-prob would depend on what else is in its batch, and keys in a cache would keep the frequencies of an earlier length.
Here they are those of the full new length throughout, which is another `rope_theta`, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpo.config import ModelError
from grpo.rope import RopeScaling

APPLIED = "zero_rope_scaling"  # in config.json of what was trained with it: it is not applied twice
KEPT = ("rope_theta", "partial_rotary_factor")  # of the checkpoint's own parameters


def scale_positions(config: Any, scaling: RopeScaling) -> None:
    """Change the configuration in place; one that has been changed by the same is left as it is.

    Raises ModelError: no rotary positions, or they are scaled already.
    """
    text = config.get_text_config()
    if (applied := getattr(text, APPLIED, None)) is not None:
        if applied != scaling.given:
            raise ModelError(
                f"model.rope_scaling: got {scaling.given}, but the checkpoint was trained with {applied}; give the "
                "same, leave it out, or start from the checkpoint before it"
            )
        return
    own = getattr(text, "rope_parameters", None)
    most = getattr(text, "max_position_embeddings", None)
    if not own or not most:
        raise ModelError(
            f"model.rope_scaling: {text.model_type} has no rotary positions to scale (rope_parameters, "
            "max_position_embeddings); leave it out"
        )
    original = scaling.original_max_position_embeddings or most
    longest = round(original * scaling.factor)
    if original > most or longest <= most:
        raise ModelError(
            f"model.rope_scaling: {original} positions times {scaling.factor:g} are {longest}; the checkpoint has "
            f"{most}: expected an original_max_position_embeddings of at most these, and more than these in the end"
        )
    layers = text.nested_rope_parameter_keys(own)
    scaled = {layer: _scaled(own[layer], scaling, original, text) for layer in layers if _far(layer) and own[layer]}
    if layers and not scaled:
        raise ModelError("model.rope_scaling: every layer looks at a window, none at more; leave it out")
    text.rope_parameters = {**own, **scaled} if layers else _scaled(own, scaling, original, text)
    text.max_position_embeddings = longest
    setattr(text, APPLIED, scaling.given)


def overrides(config: Any) -> dict[str, Any]:
    """vLLM's --hf-overrides, of a configuration that was changed."""
    text = config.get_text_config()
    changed = {
        "rope_parameters": text.rope_parameters,
        "max_position_embeddings": text.max_position_embeddings,
    }
    if text is config:
        return changed
    name = next(name for name in config.sub_configs if getattr(config, name) is text)
    return {name: changed}


def _far(layer: str) -> bool:
    """A window never looks at positions that are farther apart than it is long."""
    return "sliding" not in layer and "chunked" not in layer


def _scaled(own: Mapping[str, Any], scaling: RopeScaling, original: int, text: Any) -> dict[str, Any]:
    if own.get("rope_type", "default") != "default":
        raise ModelError(
            f"model.rope_scaling: the checkpoint scales its positions already, by {dict(own)}: two scalings on top of "
            "each other are none that it was trained for; leave it out"
        )
    kept = {name: own[name] for name in KEPT if name in own}
    factor = scaling.factor
    if scaling.rope_type == "dynamic":
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        rotated = int(size * own.get("partial_rotary_factor", 1.0))
        stretch = (factor * factor - (factor - 1)) ** (rotated / (rotated - 2))
        return {**kept, "rope_type": "default", "rope_theta": own["rope_theta"] * stretch}
    given = {**scaling.given, **kept}
    if scaling.rope_type == "linear":
        given.pop("original_max_position_embeddings", None)
        return given
    given["original_max_position_embeddings"] = original
    return {"low_freq_factor": 1.0, "high_freq_factor": 4.0, **given} if scaling.rope_type == "llama3" else given
