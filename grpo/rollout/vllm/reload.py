"""New weights into a model that vLLM serves, over its layerwise reload: begin, load_weights, finish or undo.

vLLM keeps the tensors that its kernels use. A layer's new weights are collected until it has all of them, made ready
beside the old ones, then copied over these.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from vllm.model_executor.layers.attention import is_deferred_attention_layer
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload.layerwise import (
    _place_kernel_tensors,
    finalize_layerwise_reload,
    get_layerwise_info,
    initialize_layerwise_reload,
)


def begin(model: nn.Module) -> None:
    undo(model)  # of an update that was not finished: vLLM would go on with it
    initialize_layerwise_reload(model)


def finish(model: nn.Module, model_config: Any, device: torch.device) -> None:
    finalize_layerwise_reload(model, model_config)
    if device.type == "cpu":
        _repack_output_layer(model)
        _repack_experts(model)


def undo(model: nn.Module) -> None:
    """Layers that have not got all of their new weights get their old ones back; those that have keep them."""
    for layer in model.modules():
        info = get_layerwise_info(layer)
        if info.can_load() and info.kernel_tensors is not None:
            _place_kernel_tensors(layer, info)
            info.reset()
    if hasattr(model, "_original_do_torchao_reload"):
        model._do_torchao_reload = model._original_do_torchao_reload


def missing(model: nn.Module, model_config: Any, loaded: Collection[str]) -> list[str]:
    """Parts of the model for which nothing was loaded, or not all of it; before `finish`."""
    # A tied output layer is the input embedding: it comes with it, and is not loaded by itself.
    tied = model_config.hf_text_config.tie_word_embeddings
    names = [name for name, _ in model.named_parameters() if not (tied and "lm_head." in name)]
    return sorted(set(names) - set(loaded)) or _partly_loaded(model)


def _partly_loaded(model: nn.Module) -> list[str]:
    """Layers that got some of their elements only, e.g. q_proj without k_proj of a fused projection.

    Embeddings are padded, and attention layers are finished later: both look unfinished when they are not.
    """
    return [
        name
        for name, layer in model.named_modules()
        if not isinstance(layer, VocabParallelEmbedding)
        and not is_deferred_attention_layer(layer)
        and _is_partly_loaded(layer)
    ]


def _is_partly_loaded(layer: nn.Module) -> bool:
    info = get_layerwise_info(layer)
    return info.can_load() and 0 < info.load_numel < (info.load_numel_total or 0)


def _repack_output_layer(model: nn.Module) -> None:
    """On CPU a layer multiplies with a packed copy of its weight. A tied output layer shares the weight of the input
    embedding, which was loaded, but nothing was loaded into itself: vLLM leaves its copy as it was."""
    for layer in model.modules():
        if isinstance(layer, ParallelLMHead):
            layer.quant_method.process_weights_after_loading(layer)


def _repack_experts(model: nn.Module) -> None:
    """On CPU experts lie packed for their kernel. vLLM packs them when it makes that, at the start: an update leaves
    them as they were loaded (unquantized_fused_moe_method.py, `is_weight_update`), and they are read as if packed."""
    for layer in model.modules():
        kernel = getattr(getattr(layer, "quant_method", None), "moe_kernel", None)
        if kernel is not None and "w13_weight" in layer._parameters:
            kernel.fused_experts.process_weights_after_loading(layer)
