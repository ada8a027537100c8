"""The policy: loading it, and its forward."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer
from transformers.modeling_layers import GradientCheckpointingLayer

from grpo.adapter_kinds import PROMPTED
from grpo.config import ModelError, ModelSettings
from grpo.policy.diffusion_kind import class_of
from grpo.policy.folder import model_source
from grpo.policy.logprobs import PLAIN, Head, selected_logprobs
from grpo.policy.rope import scale_positions
from grpo.types import PackedBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# transformers patches its classes while it loads: two threads at once would leave them patched for good.
_ONE_AT_A_TIME = threading.RLock()


def load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    """Raises ModelError if there is none, or it cannot be loaded."""
    source = model_source(settings.path)
    with _loading(settings.path):
        return AutoTokenizer.from_pretrained(
            source, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )


def load_config(settings: ModelSettings) -> Any:
    """The checkpoint's transformers configuration. Raises ModelError: no such folder or hub id, an unknown kind."""
    source = model_source(settings.path)
    with _loading(settings.path):
        config = AutoConfig.from_pretrained(
            source, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    if settings.rope_scaling:
        scale_positions(config, settings.rope_scaling)
    return config


def own_dtype(config: Any) -> Literal["bfloat16", "float32"]:
    """What a checkpoint's weights are computed in unless somebody says otherwise: as they are, fp16 as bf16."""
    return "float32" if str(config.dtype) == "torch.float32" else "bfloat16"


def load_model(settings: ModelSettings, device: torch.device | str = "cpu", quantized: bool = False) -> PreTrainedModel:
    """The checkpoint in the compute dtype, in evaluation mode; `quantized`: its linear layers in 4 bits (QLoRA).

    Raises:
        ModelError: no such folder, no such hub id, a damaged file, a weight that is missing, not a causal or masked
            language model (diffusion_kind.py), or no memory for it.
    """
    config = load_config(settings)
    with _loading(settings.path):
        loaded: Any = class_of(config, settings, model_source(settings.path)).from_pretrained(
            model_source(settings.path),
            config=config,
            dtype=getattr(torch, settings.dtype),
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            ignore_mismatched_sizes=True,  # refused below, with those that are missing
            output_loading_info=True,
            **_attention(config),
            **(_four_bits(settings, device) if quantized else {}),
        )
        model, report = loaded
        if unusable := sorted(report["missing_keys"] | {name for name, *_ in report["mismatched_keys"]}):
            raise ModelError(
                f"model.path: {settings.path} lacks {len(unusable)} weights in the shape of its config.json, "
                f"such as {unusable[0]}: they would be drawn at random. Expected a checkpoint of that architecture"
            )
        return (model if quantized else model.to(device)).eval()  # quantised, it is already where it belongs


def load_skeleton(settings: ModelSettings) -> PreTrainedModel:
    """The model on meta, without its weights, in evaluation mode: what they will be sent to by another process."""
    config = load_config(settings)
    with _loading(settings.path), torch.device("meta"):
        model = class_of(config, settings, model_source(settings.path)).from_config(
            config,
            dtype=getattr(torch, settings.dtype),
            trust_remote_code=settings.trust_remote_code,
            **_attention(config),
        )
    return model.eval()


def _attention(config: Any) -> dict[str, str]:
    """PyTorch's attention leaves out the cap of scores (Gemma 2) without a word."""
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    return {"attn_implementation": "eager"} if capped else {}


def _four_bits(settings: ModelSettings, device: torch.device | str) -> dict[str, Any]:
    """QLoRA's storage (arXiv 2305.14314): 4-bit normal floats, their scales quantised again."""
    from transformers import BitsAndBytesConfig

    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, settings.dtype),
    )
    return {"quantization_config": nf4, "device_map": {"": device}}


# What transformers' models raise where they are asked for what they do not do.
FAILS = (AttributeError, TypeError, ValueError, LookupError, RuntimeError, NotImplementedError, AssertionError)

# What the libraries raise for files that are damaged, or are no model's.
_UNLOADABLE = (
    *(OSError, ImportError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, EOFError),
    *(RuntimeError, MemoryError, UnpicklingError, SafetensorError, StrictDataclassError),
)


@contextmanager
def _loading(path: str) -> Iterator[None]:
    """Raises ModelError for whatever goes wrong with the files of the model."""
    try:
        with _ONE_AT_A_TIME:
            yield
    except ModelError:
        raise
    except _UNLOADABLE as error:
        reason = " ".join(str(error).split("\n")[:2]).strip() or type(error).__name__
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            hint = "There is not enough memory for it: use model.dtype: bfloat16, or a smaller model"
        elif "custom code" in reason:
            reason, hint = "it comes with code of its own", "That is executed with model.trust_remote_code: true alone"
        elif Path(path).expanduser().is_dir():
            hint = "Expected a whole transformers checkpoint of a causal language model: copy it again"
        elif os.environ.get("HF_HUB_OFFLINE"):
            reason = "it is not in the hub's cache on this machine, and the hub is not asked"
            hint = "Give a local folder: --set model.path=DIR"
        else:
            hint = "Without a connection to the hub, give a local folder: --set model.path=DIR"
        raise ModelError(f"model.path: {path} cannot be loaded ({reason}). {hint}") from error


def max_positions(settings: ModelSettings) -> int:
    """The longest sequence, prompt and completion, that the model takes."""
    config = load_config(settings).get_text_config()
    # LLaDA's code has a name of its own.
    most = getattr(config, "max_position_embeddings", None) or getattr(config, "max_sequence_length", None) or 0
    if most <= 0:  # some architectures have no bound
        return sys.maxsize
    extra = (settings.adapter.model_extra or {}) if settings.adapter and settings.prompted else {}
    return most - int(extra.get("num_virtual_tokens", 0))


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside, whether or not peft wraps it."""
    # A module's attributes have no types.
    # torch types every attribute of a module as Tensor | Module; peft's is a method.
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator,return-value]


def prompted(model: nn.Module) -> bool:
    """Whether an adapter's vectors stand before the tokens: the policy's forward is peft's then, not the model's."""
    return any(config.peft_type in PROMPTED for config in getattr(model, "peft_config", {}).values())


# -- The model in training ----------------------------------------------------------------------------------------


def enable_gradient_checkpointing(model: PreTrainedModel) -> None:
    """Recompute each layer in the backward pass, in `training_mode`, too."""
    model.gradient_checkpointing_enable()
    for layer in _checkpointed(model):
        layer._gradient_checkpointing_func = partial(_in_evaluation, layer, layer._gradient_checkpointing_func)


def training_mode(model: nn.Module, dropout: bool = False) -> None:
    """Training computes what the server computes: without the dropout of the model's config, with the adapter's.

    `dropout`: with all of it.
    """
    if dropout:
        model.train()
        return
    model.eval()
    for module in model.modules():
        if hasattr(module, "base_layer"):  # of an adapter
            module.train()
    for layer in _checkpointed(model):
        layer.training = True  # of the layer alone: else transformers recomputes nothing


def drops_out(model: nn.Module) -> bool:
    """Whether its forward, in the mode that it is in, may be random."""
    dropping = any(isinstance(one, nn.Dropout) and one.p > 0 and one.training for one in model.modules())
    return dropping or causal_lm(getattr(model, "model", model)).training


def _checkpointed(model: nn.Module) -> Iterator[Any]:
    found = (module for module in model.modules() if isinstance(module, GradientCheckpointingLayer))
    return (layer for layer in found if layer.gradient_checkpointing)


def _in_evaluation(layer: nn.Module, checkpoint: Callable[..., Any], forward: Callable[..., Any], *args: Any) -> Any:
    """Some layers have dropout in their own forward."""

    def evaluated(*args: Any) -> Any:
        layer.training = False
        try:
            return forward(*args)
        finally:
            layer.training = True

    return checkpoint(evaluated, *args)


def completion_logprobs(
    model: nn.Module, batch: PackedBatch, temperature: float, entropy_gradient: bool = False, head: Head | None = PLAIN
) -> tuple[Tensor, Tensor]:
    """(log-probs with gradient, entropies) of the micro-batch's trained tokens, each of shape (T,).

    `head`: how the model makes logits (head.py); None: in a way of its own, so that it has to make all of them.
    """
    lm = causal_lm(model)
    if head is None:
        whole = model if prompted(model) else lm
        logits_RLV = whole(**_inputs(batch)).logits[:, -batch.input_ids_RL.shape[1] :]  # without an adapter's vectors
        logits_TV = _trained(logits_RLV, batch).float() / temperature
        logp_TV = torch.log_softmax(logits_TV, dim=1)
        entropy_T = -torch.linalg.vecdot(logp_TV.exp(), logp_TV)
        return logp_TV.gather(1, batch.target_T[:, None]).squeeze(
            1
        ), entropy_T if entropy_gradient else entropy_T.detach()
    hidden_TH = _trained(lm.get_decoder()(**_inputs(batch)).last_hidden_state, batch)
    layer = cast(nn.Linear, lm.get_output_embeddings())
    return selected_logprobs(hidden_TH, layer, batch.target_T, temperature, entropy_gradient, head)


def _inputs(batch: PackedBatch) -> dict[str, Any]:
    inputs: dict[str, Any] = {"input_ids": batch.input_ids_RL, "use_cache": False}
    if batch.layout is None:
        return inputs
    # A mask of four dimensions is passed on as it is: no T x T mask is made, and packed attention needs none.
    no_mask = torch.empty(1, 1, 1, 1, device=batch.input_ids_RL.device)
    return inputs | {
        "packing": batch.layout,
        "position_ids": batch.layout.position_T[None],
        "attention_mask": no_mask,
    }


def _trained(of_all: Tensor, batch: PackedBatch) -> Tensor:
    """(R, L, X) -> (T, X), at the positions that predict the trained tokens."""
    # Not of_all[row_T, col_T]: on CPU its gradient adds what a prompt's completions share in no fixed order.
    return of_all.flatten(0, 1).index_select(0, batch.row_T * of_all.shape[1] + batch.col_T)
