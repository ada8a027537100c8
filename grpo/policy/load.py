"""The policy: loading it, and its forward."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from grpo.config import ModelError, ModelSettings
from grpo.policy.folder import model_source
from grpo.policy.logprobs import selected_logprobs
from grpo.types import PackedBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    source = model_source(settings.path)
    try:
        return AutoTokenizer.from_pretrained(
            source, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise _cannot_load(settings.path, error) from error


def load_config(settings: ModelSettings) -> Any:
    """The checkpoint's transformers configuration. Raises ModelError: no such folder or hub id, an unknown kind."""
    try:
        return AutoConfig.from_pretrained(
            model_source(settings.path), revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    except ModelError:
        raise
    except (OSError, ValueError) as error:
        raise _cannot_load(settings.path, error) from error


def own_dtype(config: Any) -> Literal["bfloat16", "float32"]:
    """What a checkpoint's weights are computed in unless somebody says otherwise: as they are, fp16 as bf16."""
    return "float32" if str(config.dtype) == "torch.float32" else "bfloat16"


def load_model(settings: ModelSettings, device: torch.device | str = "cpu", quantized: bool = False) -> PreTrainedModel:
    """The checkpoint in the compute dtype, in evaluation mode; `quantized`: its linear layers in 4 bits (QLoRA).

    Raises:
        ModelError: no such folder, no such hub id, not a causal language model, or a head that
            `selected_logprobs` does not compute.
    """
    config = load_config(settings)
    try:
        if getattr(config, "final_logit_softcapping", None):
            raise ModelError(f"model.path: {settings.path} caps its logits (final_logit_softcapping): not supported")
        model = AutoModelForCausalLM.from_pretrained(
            model_source(settings.path),
            config=config,
            dtype=getattr(torch, settings.dtype),
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            **(_four_bits(settings, device) if quantized else {}),
        )
    except (OSError, ImportError) as error:
        raise _cannot_load(settings.path, error) from error
    if quantized:  # already where it belongs
        return model.eval()
    model.to(device)  # type: ignore[arg-type]  # transformers wraps `to` without its types
    return model.eval()


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


def _cannot_load(path: str, error: Exception) -> ModelError:
    first_line = str(error).strip().splitlines()[0]
    return ModelError(
        f"model.path: {path} cannot be loaded ({first_line}). Without a connection to the hub, "
        "give a local folder: --set model.path=DIR"
    )


def max_positions(settings: ModelSettings) -> int:
    """The longest sequence, prompt and completion, that the model takes."""
    config = load_config(settings).get_text_config()
    return getattr(config, "max_position_embeddings", None) or sys.maxsize  # some architectures have no bound


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside, whether or not peft wraps it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator,return-value]


def completion_logprobs(
    model: nn.Module, batch: PackedBatch, temperature: float, entropy_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """(log-probs with gradient, entropies) of the micro-batch's trained tokens, each of shape (T,)."""
    lm = causal_lm(model)
    packed = {}
    if batch.layout is not None:
        # A mask of four dimensions is passed on as it is: no T x T mask is made, and packed attention needs none.
        no_mask = torch.empty(1, 1, 1, 1, device=batch.input_ids_RL.device)
        packed = {"packing": batch.layout, "position_ids": batch.layout.position_T[None], "attention_mask": no_mask}
    hidden_RLH = lm.get_decoder()(input_ids=batch.input_ids_RL, use_cache=False, **packed).last_hidden_state
    # Not hidden_RLH[row_T, col_T]: on CPU its gradient adds what a prompt's completions share in no fixed order.
    hidden_TH = hidden_RLH.flatten(0, 1).index_select(0, batch.row_T * hidden_RLH.shape[1] + batch.col_T)
    head = cast(nn.Linear, lm.get_output_embeddings())
    return selected_logprobs(hidden_TH, head, batch.target_T, temperature, entropy_gradient)
