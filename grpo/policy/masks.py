"""The mask token of a masked language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grpo.config import ModelError
from grpo.diffusion import DiffusionSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
