"""The weights under the names and in the shapes that a checkpoint has them in, layer by layer.

transformers computes with other tensors than checkpoints hold: the experts of a layer are one tensor here, and one by
one on the disk. Servers read checkpoints, so weights are sent as `save_pretrained` would write them, by the very
conversion that it uses. Converting the whole model at once would hold it twice: it is done for as little at a time as
gives the same names and shapes as the whole does, which is tried on tensors without storage.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from grpo.rollout.sync.stream import TensorSpec, WeightStream

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Key = Callable[[str], str]


def prediction_heads(path: str, layers: int) -> list[str]:
    """The checkpoint's tensors of multi-token-prediction heads (DeepSeek-V3, arXiv 2412.19437), which transformers
    loads for no model: those of `mtp`, and of layers beyond the decoder's. None is known of a model on a hub.
    """
    folder = Path(path).expanduser()
    index = folder / "model.safetensors.index.json"
    files = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else ["model.safetensors"]
    names: set[str] = set()
    for file in filter(Path.is_file, (folder / name for name in files)):
        with safe_open(file, "pt") as tensors:
            names.update(tensors.keys())
    beyond = re.compile(r"(?:\A|\.)layers\.(\d+)\.")
    return sorted(
        name
        for name in names
        if re.search(r"(\A|\.)mtp(_|\.)", name) or any(int(found[1]) >= layers for found in beyond.finditer(name))
    )


def checkpointed(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """(full name, its module, its name there) of each tensor that a checkpoint holds; one that is shared comes once."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        buffers = [name for name in module._buffers if name not in module._non_persistent_buffers_set]
        for name in (*module._parameters, *buffers):
            tensor = getattr(module, name)
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                yield f"{prefix}.{name}" if prefix else name, module, name


class CheckpointStream:
    """A `WeightStream` of `stream`, which has the model's own names, under the checkpoint's."""

    def __init__(self, model: PreTrainedModel, stream: WeightStream) -> None:
        self.unconverted = stream  # for who holds the same transformers model
        self._model = model
        whole = _converted(model, stream.specs)
        self._key = next(key for key in _KEYS if _specs(model, stream.specs, key, whole) is not None)
        self.specs: Sequence[TensorSpec] = _specs(model, stream.specs, self._key, whole) or []

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Each part in the order of `specs`."""
        for _, part in groupby(self.unconverted, key=lambda named: self._key(named[0])):
            tensors = dict(part)
            names = [spec.name for spec in _converted(self._model, [_spec(*named) for named in tensors.items()])]
            found = revert_weight_conversion(self._model, tensors)
            for name in names:
                yield name, found.pop(name).contiguous()


def _own_name(name: str) -> str:
    return name


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _block(name: str) -> str:
    """model.layers.3.mlp.gate.weight -> model.layers.3"""
    parts = name.split(".")
    return ".".join(parts[: next((i + 1 for i, part in enumerate(parts) if part.isdigit()), len(parts))])


def _everything(name: str) -> str:
    return ""


_KEYS: tuple[Key, ...] = (_own_name, _module, _block, _everything)  # what is converted together, the least first


def _specs(
    model: PreTrainedModel, specs: Sequence[TensorSpec], key: Key, whole: Sequence[TensorSpec]
) -> list[TensorSpec] | None:
    """What comes out of the parts; None if it is not what comes out of the whole."""
    found: list[TensorSpec] = []
    for _, part in groupby(specs, key=lambda spec: key(spec.name)):
        try:
            found += _converted(model, list(part))
        except (LookupError, ValueError, TypeError, RuntimeError):  # a conversion lacks a part of its tensors
            return None
    return found if sorted(map(str, found)) == sorted(map(str, whole)) else None


def _converted(model: PreTrainedModel, specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    tensors = {spec.name: torch.empty(spec.shape, dtype=spec.dtype, device="meta") for spec in specs}
    converted: Mapping[str, Tensor] = revert_weight_conversion(model, tensors)
    ours = {name: i for i, name in enumerate(tensors)}
    names = sorted(converted, key=lambda name: ours.get(name, len(ours)))  # those that keep their name in our order
    return [_spec(name, converted[name]) for name in names]


def _spec(name: str, tensor: Tensor) -> TensorSpec:
    return TensorSpec(name, tensor.dtype, tuple(tensor.shape))
