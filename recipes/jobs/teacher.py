"""The model that a policy is drawn to, with `train.advantage: teacher`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpo.config import ModelError, ModelSettings
from grpo.policy.load import load_config, load_tokenizer
from recipes.schema.load import resolve_model
from recipes.schema.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def teacher_settings(recipe: Recipe) -> ModelSettings:
    """In the policy's dtype, without its adapter."""
    assert recipe.train.teacher is not None
    model = recipe.model
    return ModelSettings(
        path=resolve_model(recipe.train.teacher), dtype=model.dtype, trust_remote_code=model.trust_remote_code
    )


def check_teacher(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ModelError if the recipe's teacher cannot be loaded, or reads other tokens than the policy."""
    if recipe.train.teacher is None:
        return
    settings = teacher_settings(recipe)
    mine, theirs = tokenizer.get_vocab(), load_tokenizer(settings).get_vocab()
    tokens = sorted(mine.keys() | theirs.keys())
    if different := [token for token in tokens if mine.get(token) != theirs.get(token)]:
        token = different[0]
        there, here = theirs.get(token, "missing"), mine.get(token, "missing")
        raise ModelError(
            f"train.teacher: {recipe.train.teacher} has another tokenizer than {recipe.model.path}: of "
            f"{len(tokens)} tokens {len(different)} differ, such as {token!r}, {there} there and {here} here. Token by "
            "token they cannot be compared: use a teacher of the same family, or learn from its samples (kind: sample, "
            "then kind: sft)"
        )
    known = int(load_config(settings).get_text_config().vocab_size)
    if known <= (last := max(mine.values())):
        raise ModelError(f"train.teacher: {recipe.train.teacher} knows {known} tokens, the tokenizer has number {last}")
