"""Weight updates for a vLLM server without CUDA: the worker's side of `ShmTransfer`.

vLLM loads `register` in each of its processes (entry point `vllm.general_plugins`), so the server takes
`--weight-transfer-config '{"backend": "zero_shm"}'`. Its own engines (nccl, ipc) all need CUDA.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import torch
from safetensors import safe_open
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.attention import is_deferred_attention_layer
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload.layerwise import (
    finalize_layerwise_reload,
    get_layerwise_info,
    initialize_layerwise_reload,
)

from grpo.rollout.sync.checksum import checksum
from grpo.rollout.sync.shm import ShmTransfer


def register() -> None:
    """Make the engine known to vLLM; it may call this more than once in a process."""
    with suppress(ValueError):  # already registered
        WeightTransferEngineFactory.register_engine(ShmTransfer.backend, ShmWeightTransferEngine)


@dataclass
class InitInfo(WeightTransferInitInfo):
    pass


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    path: str  # a safetensors file with the whole model, names as in the transformers checkpoint
    checksum: str  # of its tensors in the file's order, as the trainer computed it


class ShmWeightTransferEngine(WeightTransferEngine[InitInfo, UpdateInfo]):
    """Reads a file, verifies it, loads it. Everything happens in `update_weights`, so that a file that
    fails the verification leaves the served weights as they were."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo
    supports_draft_weight_update = False

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        pass

    def start_weight_update(self) -> None:
        pass

    def finish_weight_update(self) -> None:
        pass

    def shutdown(self) -> None:
        pass

    def update_weights(self, update_info: dict[str, object]) -> None:
        # The base class synchronises the accelerator afterwards, and there is none.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Raises ValueError if the file is not what was announced or does not fit the model."""
        with safe_open(update_info.path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.offset_keys()}  # views of the mapped file
        found = checksum(tensors)
        if found != update_info.checksum:
            raise ValueError(
                f"checksum mismatch: the trainer announced {update_info.checksum}, "
                f"{update_info.path} holds {found}; the weights were left as they were"
            )
        initialize_layerwise_reload(self.model)
        loaded = self.model.load_weights(tensors.items())  # type: ignore[operator]
        if missing := self._not_loaded(loaded) or self._partly_loaded():
            raise ValueError(f"no tensor was sent for these parts of the model: {missing[:8]}")
        finalize_layerwise_reload(self.model, self.model_config)
        self._repack_output_layer()

    def _repack_output_layer(self) -> None:
        """On CPU a layer multiplies with a packed copy of its weight. A tied output layer shares the weight of the
        input embedding, which was loaded, but nothing was loaded into itself: vLLM leaves its copy as it was."""
        for layer in self.model.modules():
            if isinstance(layer, ParallelLMHead):
                layer.quant_method.process_weights_after_loading(layer)

    def _not_loaded(self, loaded: set[str]) -> list[str]:
        # A tied output layer is the input embedding: it comes with it, and is not loaded by itself.
        tied = self.model_config.hf_text_config.tie_word_embeddings
        names = [name for name, _ in self.model.named_parameters() if not (tied and "lm_head." in name)]
        return sorted(set(names) - loaded)

    def _partly_loaded(self) -> list[str]:
        """Layers that got some of their elements only, e.g. q_proj without k_proj of a fused projection.

        Embeddings are padded, and attention layers are finished later: both look unfinished when they are not.
        """
        return [
            name
            for name, layer in self.model.named_modules()
            if not isinstance(layer, VocabParallelEmbedding)
            and not is_deferred_attention_layer(layer)
            and _is_partly_loaded(layer)
        ]


def _is_partly_loaded(layer: torch.nn.Module) -> bool:
    info = get_layerwise_info(layer)
    return info.can_load() and 0 < info.load_numel < (info.load_numel_total or 0)
