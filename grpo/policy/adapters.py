"""Adapters (peft): training a few added parameters in place of the weights, and what the server gets of them.

    LoRA    W + (alpha / r) B A          arXiv 2106.09685
    rsLoRA  W + (alpha / sqrt(r)) B A    arXiv 2312.03732
    DoRA    m (W + (alpha / r) B A) / |W + (alpha / r) B A|, the norm of each row   arXiv 2402.09353
    QLoRA   LoRA over W stored in 4 bits (nf4)   arXiv 2305.14314

and every other kind of peft whose layers merge into weights, by its own configuration (`model.adapter`); or that puts
vectors before the prompt (grpo/adapter_kinds.py), for the in-process engine, which has the same peft model.

What is sampled must be what is trained. vLLM serves plain LoRA as an adapter; of everything else it gets the merged
weights. Merging is done by peft, on an fp32 copy of one layer at a time: merging in place and undoing it would let
bf16 rounding drift into the frozen weights. Whether a kind of adapter merges to what it computes is not believed but
tried, on a layer of the model with random values, before the run starts.
"""

from __future__ import annotations

import copy
import inspect
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from grpo.config import ModelError, ModelSettings
from grpo.policy.load import causal_lm, prompted
from grpo.policy.names import CheckpointStream, checkpointed
from grpo.policy.policy import Policy
from grpo.policy.shard.shard import gathered
from grpo.rollout.sync.stream import TensorSpec, WeightStream
from rewards.nearest import did_you_mean

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

TOLERANCE = 1e-3  # relative difference between an adapted layer and its merged weights; fp32 noise is about 1e-6
TOLERANCE_4_BITS = 2e-2  # their kernels multiply in bf16


def add_adapter(model: PreTrainedModel, settings: ModelSettings, seed: int = 0) -> PreTrainedModel:
    """Inject the settings' trainable adapter into `model` in place; every other weight is frozen.

    Args:
        seed: of the adapter's first values, and of what some kinds draw once and freeze.

    Raises:
        ModelError: peft refuses the configuration, or the adapter cannot be served: it does not merge, or it
            changes the output layer.
    """
    from peft import get_peft_model

    key = "model.lora" if settings.lora else "model.adapter"
    # peft's wrapper of causal models wants what only those that generate have; a masked model has a plain one.
    config = _peft_config(settings, "CAUSAL_LM" if hasattr(model, "prepare_inputs_for_generation") else None)
    torch.manual_seed(seed)
    try:
        policy = get_peft_model(model, config)
    except (ValueError, TypeError, ImportError) as error:
        raise ModelError(f"{key}: peft refuses it for {settings.path}: {_first_line(error)}") from error
    lm = causal_lm(policy)
    _check_place(lm, key)
    if not settings.prompted and next(lm.parameters()).device.type != "meta":
        _check_merge(lm, f"{key} ({settings.adapter.peft_type if settings.adapter else 'LORA'})")
    return cast("PreTrainedModel", policy)


class ServedWeights(CheckpointStream):
    """A `WeightStream` of what a server is to hold: the checkpoint's names, adapters merged, layer by layer."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(causal_lm(policy.model), ModelWeights(policy))


class ModelWeights:
    """A `WeightStream` of the policy's weights under the model's own names, adapters merged, layer by layer.

    Read anew each time: what comes is what the policy is then. That of a sharded policy is gathered, cast first, while
    all ranks read the whole stream.
    """

    def __init__(self, policy: Policy) -> None:
        lm = policy.model if prompted(policy.model) else causal_lm(policy.model)
        self._dtype = policy.dtype
        prefix = next(name for name, module in policy.named_modules() if module is lm)
        self._dtypes = {name.removeprefix(f"{prefix}."): dtype for name, dtype in policy.dtypes.items()}
        layers = _adapted_layers(lm)
        self._places: dict[str, tuple[nn.Module, str]] = {}  # served name -> module, name of its parameter
        for full, module, name in checkpointed(lm):
            adapted = next((prefix for prefix in layers if full.startswith(f"{prefix}.")), None)
            if adapted is None:
                self._places[full] = module, name
            # Of experts peft wraps one parameter after the other, each around the one before.
            elif re.fullmatch(r"(base_layer\.)+", full.removeprefix(f"{adapted}.").removesuffix(name)):
                self._places[f"{adapted}.{name}"] = layers[adapted], name

    @property
    def specs(self) -> list[TensorSpec]:
        return [self._spec(name) for name in self._places]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """The only place where weights are read."""
        for name in self._places:
            yield name, self._served(name)

    def _spec(self, name: str) -> TensorSpec:
        module, parameter = self._places[name]
        # A module's attributes have no types.
        # torch types every attribute of a module as Tensor | Module; peft's is a method.
        base = module.get_base_layer() if hasattr(module, "base_layer") else module  # type: ignore[operator]
        tensor = getattr(base, parameter)
        if _is_quantized(base) and parameter == "weight":
            return TensorSpec(name, self._dtype, tuple(tensor.quant_state.shape))
        dtype = self._dtypes[name] if base is module else self._dtype
        return TensorSpec(name, dtype, tuple(tensor.shape))

    @torch.no_grad()
    def _served(self, name: str) -> Tensor:
        module, parameter = self._places[name]
        if hasattr(module, "base_layer"):
            return getattr(_merged(module), parameter).detach().to(self._dtype)
        if _is_quantized(module) and parameter == "weight":
            return _dequantized(module).to(self._dtype)
        return gathered(getattr(module, parameter), self._dtypes[name])


def served_weights(policy: Policy) -> WeightStream:
    """What an engine is to hold; a peft model's own tensors where they do not merge."""
    return ModelWeights(policy) if prompted(policy.model) else ServedWeights(policy)


# -- Merging -------------------------------------------------------------------------------------------------------


def _adapted_layers(lm: nn.Module) -> dict[str, Any]:
    """The layers that an adapter wraps, by name; none without an adapter."""
    found = {name: module for name, module in lm.named_modules() if hasattr(module, "base_layer")}
    return {name: module for name, module in found.items() if hasattr(module, "merge")}


def _merged(layer: Any) -> nn.Module:
    """The wrapped layer without its adapter and computing the same; in fp32."""
    if _is_quantized(layer.base_layer):
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        # As peft merges over 4 bits (peft/tuners/lora/bnb.py), but without rounding the result to 4 bits again.
        plain.weight = nn.Parameter(_dequantized(layer.base_layer) + layer.get_delta_weight("default").float())
        plain.bias = layer.base_layer.bias
        return plain
    alone = copy.deepcopy(layer).float()
    for module in alone.modules():
        for name, parameter in module._parameters.items():
            if isinstance(parameter, DTensor):
                module._parameters[name] = nn.Parameter(parameter.full_tensor(), requires_grad=False)
    wrapper: Any = alone
    while hasattr(wrapper, "merge"):
        wrapper.merge()
        wrapper = wrapper.base_layer
    return alone.get_base_layer()


def _is_quantized(module: nn.Module) -> bool:
    return getattr(getattr(module, "weight", None), "quant_state", None) is not None


def _dequantized(module: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(module.weight.data, module.weight.quant_state).float()


# -- What cannot work ----------------------------------------------------------------------------------------------


def _peft_config(settings: ModelSettings, task_type: str | None) -> PeftConfig:
    from peft import LoraConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    if lora := settings.lora:
        return LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.target_modules,
            use_rslora=lora.rslora,
            use_dora=lora.dora,
            task_type=task_type,
        )
    assert settings.adapter is not None
    kinds = {kind.value: config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    wanted = settings.adapter.peft_type
    if wanted not in kinds:
        raise ModelError(
            f"model.adapter.peft_type: got {wanted!r}{did_you_mean(wanted, kinds)}, expected one of peft's kinds"
        )
    given = settings.adapter.model_extra or {}
    known = list(inspect.signature(kinds[wanted]).parameters)
    if unknown := next((name for name in given if name not in known), None):
        raise ModelError(
            f"model.adapter.{unknown}: {kinds[wanted].__name__} has no such key{did_you_mean(unknown, known)}"
        )
    try:
        return kinds[wanted](**{"task_type": task_type, **given})
    except (ValueError, TypeError) as error:
        raise ModelError(f"model.adapter: {kinds[wanted].__name__} refuses it: {_first_line(error)}") from error


def _check_place(lm: PreTrainedModel, key: str) -> None:
    """The trainer multiplies with the output layer's weight by itself, and a tied embedding is that weight."""
    wrapped = {name for name, module in lm.named_modules() if hasattr(module, "original_module")}
    if wrapped:
        raise ModelError(
            f"{key}: {sorted(wrapped)[0]} would be trained in full beside the adapter (modules_to_save or "
            "trainable_token_indices), which is not served; leave it out, or train without an adapter"
        )
    tied = lm.config.get_text_config().tie_word_embeddings
    for place, layer in (("output", lm.get_output_embeddings()), ("tied input", lm.get_input_embeddings())):
        if hasattr(layer, "base_layer") and (place == "output" or tied):
            raise ModelError(f"{key}.target_modules: the {place} embeddings cannot be adapted; leave them out")


def _check_merge(lm: nn.Module, what: str) -> None:
    """Raises ModelError unless one layer of each kind, with random values, computes what its merged weights do."""
    layers = _adapted_layers(lm)
    if not layers:
        raise ModelError(f"{what}: it wraps no layer of the model; expected target_modules that name some")
    for name, layer in {type(layer): (name, layer) for name, layer in layers.items()}.values():
        try:
            difference = _merge_error(layer)
        except (NotImplementedError, ValueError, TypeError, RuntimeError, AttributeError, KeyError) as error:
            raise ModelError(
                f"{what}: {name} does not merge into weights ({_first_line(error)}), and vLLM serves no adapter but "
                "LoRA; use one that does, such as model.lora"
            ) from error
        if not difference < (TOLERANCE_4_BITS if _is_quantized(layer.get_base_layer()) else TOLERANCE):
            raise ModelError(
                f"{what}: {name} merged differs from the adapted layer by {difference:.1%}, expected rounding: the "
                "server would sample from another policy than the one that is trained; use model.lora"
            )


@torch.no_grad()
def _merge_error(layer: Any) -> float:
    """Largest difference between the adapted and the merged layer's output, over the largest output."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft on rounding, which is what is measured
        trial = copy.deepcopy(layer).eval()
        trial = trial if _is_quantized(trial.base_layer) else trial.float()
        random = torch.Generator().manual_seed(0)
        for parameter in (p for p in trial.parameters() if p.requires_grad):
            parameter += 0.02 * torch.randn(parameter.shape, generator=random).to(parameter)
        plain = _merged(trial).float()
        weight = cast(Tensor, plain.weight)
        input_BI = torch.randn(4, weight.shape[-1], generator=random).to(weight)
        adapted_BO, merged_BO = (_first(layer(input_BI)) for layer in (trial, plain))
    return ((adapted_BO - merged_BO).abs().max() / merged_BO.abs().max()).item()


def _first(output: Any) -> Tensor:
    """A router's logits, which it returns with what follows from them."""
    return output[0] if isinstance(output, tuple) else output


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
