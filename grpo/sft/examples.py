"""Rows into examples: the tokens of a conversation, a prompt with its completion or a text, and which are learned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from grpo.sft.config import ColumnNames, SFTConfig
from grpo.sft.errors import RowError, SFTError
from grpo.sft.template import learned, render, training_template
from grpo.types import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Example:
    """Example: Example("chat/train/7", ids=(5, 6, 8, 3), trained=(False, False, True, True))"""

    id: str
    ids: tuple[int, ...]
    trained: tuple[bool, ...]  # the first token never is: nothing predicts it

    @property
    def n_trained(self) -> int:
        return sum(self.trained)

    @property
    def sample(self) -> Sample:
        """As the training step takes it: all before the first trained token is the prompt."""
        start = self.trained.index(True)
        completion, trained = self.ids[start:], self.trained[start:]
        end = len(trained) - trained[::-1].index(True)  # what comes after the last one has no part in it
        return Sample(
            self.ids[:start], completion[:end], (0.0,) * end, 1.0, None, None if all(trained[:end]) else trained[:end]
        )


@dataclass(slots=True)
class Examples:
    """What became of the rows."""

    kept: list[Example] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> rows
    first: dict[str, str] = field(default_factory=dict)  # reason -> the first of those rows, and what it says

    def drop(self, reason: str, row: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        self.first.setdefault(reason, row)


def kind_of(columns: Sequence[str], names: ColumnNames | None, label: str) -> ColumnNames:
    """Which columns hold the examples. Raises SFTError if none does, or one is missing."""
    if names is None:
        for kind in (("messages",), ("prompt", "completion"), ("text",)):
            if set(kind) <= set(columns):
                return ColumnNames(**{name: name for name in kind})
        raise SFTError(
            f"{label} has the columns {', '.join(columns)}, expected messages, or prompt and completion, or text; "
            "say which is which, as columns: {messages: NAME}"
        )
    for name in (names.messages, names.prompt, names.completion, names.text):
        if name and name not in columns:
            raise SFTError(f"{label} has no column {name!r}; it has {', '.join(columns)}")
    return names


class Reader:
    """Makes examples of rows. Raises SFTError if the tokenizer's chat template is needed and cannot be used.

    Args:
        names: the columns, see `kind_of`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: SFTConfig, names: ColumnNames) -> None:
        self._tokenizer, self._config, self._names = tokenizer, config, names
        if tokenizer.eos_token_id is None:
            raise SFTError("the model's tokenizer has no end-of-sequence token: a trained model would never end")
        self._template: str | None = None

    def __call__(self, row: Mapping[str, Any]) -> tuple[list[int], list[bool]]:
        """(token ids, which of them are learned) of one row. Raises SFTError: what is wrong with it."""
        names = self._names
        if names.messages:
            ids, trained = self._conversation(_messages(row[names.messages], names.messages))
        elif names.text:
            ids = self._text(_string(row[names.text], names.text), ends=True)
            trained = [True] * len(ids)
        else:
            ids, trained = self._completion(row[str(names.prompt)], row[str(names.completion)])
        if self._config.loss_on == "all":
            trained = [True] * len(ids)
        return ids, [False, *trained[1:]]

    def _conversation(self, messages: list[Mapping[str, Any]]) -> tuple[list[int], list[bool]]:
        if self._config.loss_on == "all":
            return render(self._tokenizer, messages, self._any_template)
        if not any(message["role"] == "assistant" for message in messages):
            raise RowError("it has no assistant's turn")
        template = self._marked_template
        own = template == self._tokenizer.chat_template or self._config.chat_template is not None
        return (render if own else learned)(self._tokenizer, messages, template)

    def _completion(self, prompt: Any, completion: Any) -> tuple[list[int], list[bool]]:
        if isinstance(prompt, str) and isinstance(completion, str):
            before, after = self._text(prompt), self._text(completion, ends=True, starts=False)
            return before + after, [False] * len(before) + [True] * len(after)
        messages, said = _messages(prompt, "prompt"), _messages(completion, "completion")
        if not any(message["role"] == "assistant" for message in said):
            raise RowError("its completion has no assistant's turn")
        template = self._any_template
        before, _ = render(self._tokenizer, messages, template, add_generation_prompt=True)
        whole, _ = render(self._tokenizer, [*messages, *said], template)
        if whole[: len(before)] != before:
            raise RowError(
                "the chat template renders its prompt otherwise where a completion follows; use a messages column"
            )
        return whole, [False] * len(before) + [True] * (len(whole) - len(before))

    def _text(self, text: str, ends: bool = False, starts: bool = True) -> list[int]:
        """With what the tokenizer itself puts before a text, if it `starts` one; and the end token, if it `ends`."""
        ids = list(self._tokenizer(text, add_special_tokens=starts)["input_ids"])
        end = self._tokenizer.eos_token_id
        if not ends and ids and ids[-1] == end and not text.endswith(str(self._tokenizer.eos_token)):
            ids.pop()  # which the tokenizer puts after every text
        return [*ids, end] if ends and ids[-1:] != [end] else ids

    @property
    def _marked_template(self) -> str:
        if self._template is None:
            self._template = training_template(self._tokenizer, self._config.chat_template)
        return self._template

    @property
    def _any_template(self) -> str:
        own = self._tokenizer.chat_template
        if self._config.chat_template is None and isinstance(own, str):
            return own
        return self._marked_template


def read_examples(
    rows: Iterable[tuple[str, Mapping[str, Any]]], reader: Reader, config: SFTConfig, limit: int | None = None
) -> Examples:
    """The examples of (id, row), at most `limit`; what cannot be learned from is dropped under its reason."""
    found = Examples()
    for name, row in rows:
        if limit is not None and len(found.kept) >= limit:
            break
        try:
            ids, trained = reader(row)
        except RowError as error:
            found.drop("not readable", f"{name}: {error}")
            continue
        if len(ids) > config.max_length:
            if config.longer == "drop":
                found.drop(f"longer than train.max_length ({config.max_length})", f"{name}: {len(ids)} tokens")
                continue
            ids, trained = ids[: config.max_length], trained[: config.max_length]
        if not any(trained):
            found.drop("no token to learn", name)
            continue
        found.kept.append(Example(name, tuple(ids), tuple(trained)))
    return found


def split_held_out(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """(to train on, held out), chosen by content, so that equal examples fall on one side."""
    train: list[Example] = []
    held_out: list[Example] = []
    for example in examples:
        digest = hashlib.sha256(f"{seed}/{example.ids}".encode()).digest()
        (held_out if int.from_bytes(digest[:8], "big") < share * 2**64 else train).append(example)
    return train, held_out


def marked(example: Example, tokenizer: PreTrainedTokenizerBase) -> str:
    """The example's text with what is learned between » and «, token by token as trained."""
    out, inside = [], False
    run: list[int] = []
    for token, trained in [*zip(example.ids, example.trained, strict=True), (None, False)]:
        if trained != inside or token is None:
            text = str(tokenizer.decode(run))
            out.append(f"»{text}«" if inside else text)
            run, inside = [], trained
        if token is not None:
            run.append(token)
    return "".join(out)


def _messages(value: Any, column: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list | tuple) or not value:
        raise RowError(f"{column}: got {_short(value)}, expected a list of messages")
    for message in value:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise RowError(f"{column}: got {_short(message)}, expected a message with role and content")
        if not isinstance(message.get("content"), str | list) and not message.get("tool_calls"):
            raise RowError(f"{column}: a message of {message['role']} has no content")
    # Parquet and JSON fill what only some messages have with None, which a template would take for a value.
    return [{key: part for key, part in message.items() if part is not None} for message in value]


def _string(value: Any, column: str) -> str:
    if not isinstance(value, str) or not value:
        raise RowError(f"{column}: got {_short(value)}, expected text")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
