"""Which kind of language model a checkpoint is, causal or masked, by what it was saved as; and what masks."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from grpo.config import ModelError, ModelSettings
from grpo.diffusion import DiffusionSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASKED = r"MaskedLM|LLaDA"  # in the name of an architecture
SHIFTED = "Dream"  # a masked model whose logits are those of the next position
CAUSAL = r"CausalLM|LMHeadModel|ForConditionalGeneration"


def architecture(config: Any) -> str:
    """Its name, or the kind of configuration where the checkpoint does not say."""
    return ", ".join(config.architectures or []) or str(config.model_type)


def is_masked(config: Any) -> bool:
    return bool(re.search(f"{MASKED}|{SHIFTED}", architecture(config)))


def class_of(config: Any, settings: ModelSettings, source: str) -> Any:
    """transformers' class that loads it; of a masked model with code of its own (LLaDA's), the first that it names.

    Args:
        source: the folder, or the hub id, that `settings` name.
    """
    if not is_masked(config):
        return AutoModelForCausalLM
    named = getattr(config, "auto_map", None) or {}
    classes: list[Any] = [AutoModelForMaskedLM, AutoModelForCausalLM, AutoModel]
    own = next((one for one in classes if one.__name__ in named), None)
    if own is None:
        return AutoModelForMaskedLM
    if settings.trust_remote_code:
        _bring_up_to_date(get_class_from_dynamic_module(named[own.__name__], source, revision=settings.revision))
    return own


def _bring_up_to_date(code: Any) -> None:
    """LLaDA's code is of transformers 4, which asked of a model neither `post_init` nor arguments of `tie_weights`."""
    if hasattr(code, "all_tied_weights_keys"):
        return
    code.all_tied_weights_keys = {}  # of the class: an instance that sets its own is not touched
    begun, tie = code.__init__, code.tie_weights

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        begun(self, *args, **kwargs)
        if "all_tied_weights_keys" not in vars(self):
            self.post_init()

    code.__init__ = __init__
    if not inspect.signature(tie).parameters.keys() - {"self"}:
        code.tie_weights = lambda self, **_: tie(self)


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


def mask_token(config: Any, tokenizer: PreTrainedTokenizerBase, settings: DiffusionSettings) -> int:
    """Its id: of the token that the settings name; else the tokenizer's; else config.json's. Raises ModelError."""
    vocabulary = int(config.get_text_config().vocab_size)
    found: int | None
    if (name := settings.mask_token) is not None:
        found = tokenizer.get_vocab().get(name)
        if found is None:
            raise ModelError(
                f"rollout.diffusion.mask_token: the tokenizer has no token {name!r}; expected one of its vocabulary"
            )
    else:
        found = tokenizer.mask_token_id
        found = getattr(config, "mask_token_id", None) if found is None else found
    if found is None:
        raise ModelError(
            "rollout.diffusion.mask_token: neither the tokenizer nor config.json (mask_token_id) says which token "
            "masks; name it"
        )
    if not 0 <= found < vocabulary:
        raise ModelError(
            f"rollout.diffusion.mask_token: id {found} is beyond the model's {vocabulary} tokens; name another"
        )
    return found
