"""The two forms in which rewards take completions: texts, and message lists as TRL gives them for a chat."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any, Literal

from rewards.graded import Completion, text_of

CompletionForm = Literal["text", "messages"]

_LIST = r"(?:list|sequence)\[{}\]"
_MESSAGES = _LIST.format(r"(?:dict|mapping)(?:\[[^\[\]]*\])?")  # TRL writes list[list[dict[str, str]]] for a batch


def in_form(texts: Sequence[Completion], form: CompletionForm | None, role: str) -> list[Any]:
    """As texts, or each as one message of `role`; None leaves them as they are.

    Example: in_form(["42"], "messages", "assistant") == [[{"role": "assistant", "content": "42"}]]
    """
    if form == "text":
        return [text_of(text) for text in texts]
    if form == "messages":
        return [[{"role": role, "content": text}] if isinstance(text, str) else text for text in texts]
    return list(texts)


def declared_form(parameter: inspect.Parameter | None) -> CompletionForm | None:
    """What the annotation of `completions` or `completion` asks for; None if it does not say, or takes both."""
    if parameter is None or parameter.annotation is parameter.empty:
        return None
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"typing\.|collections\.abc\.|\s", "", text).lower()
    one = {"completion": "{}", "completions": _LIST}[parameter.name]
    if re.fullmatch(one.format("str"), text):
        return "text"
    return "messages" if re.fullmatch(one.format(_MESSAGES), text) else None
