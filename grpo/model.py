"""The policy: loading it, its forward, and its weights as the server wants them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from grpo.config import LoraSettings, ModelError, ModelSettings
from grpo.logprobs import selected_logprobs
from grpo.types import PackedBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def _check_folder(path: str) -> None:
    looks_local = path.startswith((".", "/", "~")) or path.count("/") != 1
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"model.path: {path} has no config.json; expected a transformers checkpoint folder")
    elif looks_local:
        raise ModelError(f"model.path: {path} is not a folder; expected a transformers checkpoint folder or a hub id")


def load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    _check_folder(settings.path)
    try:
        return AutoTokenizer.from_pretrained(
            settings.path, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise _cannot_load(settings.path, error) from error


def load_model(settings: ModelSettings, device: torch.device | str = "cpu") -> PreTrainedModel:
    """The checkpoint in the compute dtype, in evaluation mode.

    Raises:
        ModelError: no such folder, no such hub id, not a causal language model, or a head that
            `selected_logprobs` does not compute.
    """
    _check_folder(settings.path)
    try:
        config = AutoConfig.from_pretrained(
            settings.path, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
        if getattr(config, "final_logit_softcapping", None):
            raise ModelError(f"model.path: {settings.path} caps its logits (final_logit_softcapping): not supported")
        model = AutoModelForCausalLM.from_pretrained(
            settings.path,
            config=config,
            dtype=getattr(torch, settings.dtype),
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
        )
    except OSError as error:
        raise _cannot_load(settings.path, error) from error
    model.to(device)  # type: ignore[arg-type]  # transformers wraps `to` without its types
    return model.eval()


def _cannot_load(path: str, error: Exception) -> ModelError:
    first_line = str(error).strip().splitlines()[0]
    return ModelError(
        f"model.path: {path} cannot be loaded ({first_line}). Without a connection to the hub, "
        "give a local folder: --set model.path=DIR"
    )


def max_positions(settings: ModelSettings) -> int:
    """The longest sequence, prompt and completion, that the model takes."""
    config = AutoConfig.from_pretrained(
        settings.path, revision=settings.revision, trust_remote_code=settings.trust_remote_code
    ).get_text_config()
    return getattr(config, "max_position_embeddings", None) or sys.maxsize  # some architectures have no bound


def add_lora(model: PreTrainedModel, lora: LoraSettings) -> PreTrainedModel:
    """Inject a trainable adapter into `model` in place (peft); every other weight is frozen."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )
    return cast("PreTrainedModel", get_peft_model(model, config))


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside, whether or not peft wraps it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator,return-value]


def completion_logprobs(model: nn.Module, batch: PackedBatch, temperature: float) -> tuple[Tensor, Tensor]:
    """(log-probs with gradient, entropies without) of the micro-batch's trained tokens, each of shape (T,)."""
    lm = causal_lm(model)
    hidden_RLH = lm.get_decoder()(input_ids=batch.input_ids_RL, use_cache=False).last_hidden_state
    hidden_TH = hidden_RLH[batch.row_T, batch.col_T]
    return selected_logprobs(hidden_TH, cast(nn.Linear, lm.get_output_embeddings()), batch.target_T, temperature)


class ServedWeights(Mapping[str, Tensor]):
    """The policy's weights under their transformers names, adapters merged; read anew at each access.

    Merging is done on the fly, one tensor at a time: merging in place and undoing it would let bf16
    rounding drift into the frozen weights.
    """

    def __init__(self, model: nn.Module) -> None:
        lm = causal_lm(model)
        self._adapted = {name: module for name, module in lm.named_modules() if hasattr(module, "get_delta_weight")}
        self._tensors = {
            name.replace(".base_layer.", "."): tensor for name, tensor in lm.named_parameters() if ".lora_" not in name
        }

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._tensors[name].detach()
        module = self._adapted.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if module is None:
            return tensor
        delta = module.get_delta_weight("default").detach()  # type: ignore[operator]
        return (tensor.float() + delta.float()).to(tensor.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
