"""Conversations into tokens, and which of them the assistant wrote: by the chat template's own marks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo.sft.errors import RowError, SFTError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKS = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


def training_template(tokenizer: PreTrainedTokenizerBase, file: str | None = None) -> str:
    """The chat template to train with: `file`'s, else the tokenizer's, else TRL's marked version of the same.

    Raises SFTError if there is none that marks the assistant's turns by {% generation %} and {% endgeneration %}.
    """
    if file is not None:
        template = _read(file)
        if not MARKS.search(template):
            raise SFTError(f"train.chat_template: {file} marks nothing; put {_ADVICE}")
        return template
    own = tokenizer.chat_template
    if isinstance(own, dict):
        own = own.get("default")
    if not own:
        raise SFTError(
            "the model's tokenizer has no chat template, and the data holds conversations: name a file with one by "
            "train.chat_template, or use columns prompt and completion with plain text"
        )
    if MARKS.search(own):
        return own
    from trl.chat_template_utils import get_training_chat_template

    try:
        marked = get_training_chat_template(tokenizer)
    except ValueError:  # not one that TRL knows
        marked = None
    if not marked or not MARKS.search(marked):
        raise SFTError(
            "the model's chat template does not mark the assistant's turns, and is none that TRL has marks for: put "
            f"{_ADVICE} into a copy of it, and name the file by train.chat_template; or use train.loss_on: all"
        )
    return marked


_ADVICE = "{% generation %} ... {% endgeneration %} around what the assistant writes, its end token included,"


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], template: str, **options: Any
) -> tuple[list[int], list[bool]]:
    """(token ids, which of them the assistant wrote). Raises RowError where the template refuses the messages."""
    from jinja2 import TemplateError

    try:
        out: Any = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=bool(MARKS.search(template)),
            **options,
        )
    except (TemplateError, TypeError, KeyError) as error:
        raise RowError(f"the chat template refuses the conversation: {error}") from error
    ids = list(out["input_ids"])
    return ids, [bool(mark) for mark in out.get("assistant_masks") or [False] * len(ids)]


def learned(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], template: str
) -> tuple[list[int], list[bool]]:
    """(token ids, which of them the model has to write), of a template that TRL has put the marks into.

    TRL's marks are a little wide: they may hold what the prompt of a turn ends with, and the blanks after its end.
    """
    ids, trained = render(tokenizer, messages, template)
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt, _ = render(tokenizer, messages[:i], template, add_generation_prompt=True)
            same = [a == b for a, b in zip(ids, prompt, strict=False)]
            # Not always all of the prompt: one that opens <think> is followed by no plain answer.
            common = same.index(False) if False in same else len(same)
            for place in range(common - 1, -1, -1):
                if not trained[place]:
                    break
                trained[place] = False
    for place in range(len(ids) - 1, -1, -1):
        ends = trained[place] and not (place + 1 < len(ids) and trained[place + 1])
        if ends and not str(tokenizer.decode([ids[place]])).strip():
            trained[place] = False
    return ids, trained


def _read(file: str) -> str:
    try:
        return Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SFTError(f"train.chat_template: {file} cannot be read: {error}; expected a Jinja template") from error
