"""A problem as the model sees it.

    template    problem + instruction                                       what completes it
    r1_zero     "... User: {question}\nAssistant: <think>"                  a base model
    chat        the tokenizer's own chat template                           a chat model
    any text    the text, {question} replaced                               whatever it was written for

The end of a prompt that already belongs to the answer is its prefill: a `<think>` that the template opens, and
`prefill` after it. Rewards read prefill + completion, or a model that was handed `<think>` would never be seen
to open it. Token ids are computed here, once, so that server and trainer cannot disagree about them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from grpo.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Table 1 of DeepSeek-R1 (arXiv 2501.12948), with <think> opened as R1-Zero-like runs do (arXiv 2503.20783).
R1_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
    "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, "
    "i.e., <think> reasoning process here </think> <answer> answer here </answer>.\n"
    "User: {question}\nAssistant: <think>"
)
SYSTEM = (
    "Think before you answer. Enclose the reasoning in <think> </think> tags and the answer alone in "
    "<answer> </answer> tags: <think> reasoning here </think> <answer> answer here </answer>"
)
Conversation = tuple[dict[str, str], ...]
OPENED = re.compile(r"<think>\s*\Z")


class PromptError(ValueError):
    """A template cannot be used with this tokenizer."""


class Askable(Protocol):
    """What a prompt is made of: a task's row, or an evaluation's problem."""

    @property
    def id(self) -> str: ...
    @property
    def question(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def columns(self) -> Mapping[str, Any]: ...


def render(
    rows: Sequence[Askable],
    tokenizer: PreTrainedTokenizerBase | None,
    template: str,
    system: str | None = None,
    instruction: str | None = None,
    prefill: str | None = None,
    max_prompt_tokens: int | None = None,
    shots: Sequence[tuple[str, str]] = (),
    conversations: Sequence[Conversation] | None = None,
) -> tuple[list[Prompt], int]:
    """Prompts in the order of `rows`, and how many were dropped for being longer than `max_prompt_tokens`.

    Args:
        tokenizer: None where a server has the only one: prompts then have no token ids, and those of a chat no text.
        template: "r1_zero", "chat", or a text that contains {question}.
        system: of a chat; None is `SYSTEM`, "" is none.
        instruction: appended to each question, on a line of its own.
        prefill: how the answer starts, after what the template opens.
        shots: (question, answer) of solved problems that come first: turns of a chat, else in the same text.
        conversations: of a chat, in place of those of question, shots and system prompt.

    Raises:
        PromptError: `chat` with a tokenizer that has no chat template, or one that takes no system prompt.
    """
    questions = [_asked(row.question, instruction) for row in rows]
    solved = [(_asked(question, instruction), answer) for question, answer in shots]
    if template == "chat":
        if conversations is None:
            prompt = SYSTEM if system is None else system
            conversations = [_conversation(question, prompt, solved) for question in questions]
        texts = [apply_chat_template(tokenizer, m) if tokenizer is not None else "" for m in conversations]
    else:
        conversations = [()] * len(questions)
        frame = R1_ZERO if template == "r1_zero" else template
        before = "".join(f"{frame.replace('{question}', question)} {answer}\n\n" for question, answer in solved)
        texts = [before + frame.replace("{question}", question) for question in questions]
    texts = [text + (prefill or "") for text in texts]
    # A chat template writes its special tokens itself; a raw text gets those that the model was trained to see.
    all_ids: Sequence[Sequence[int]] = [()] * len(texts)
    if texts and tokenizer is not None:
        all_ids = tokenizer(texts, add_special_tokens=template != "chat")["input_ids"]
    prompts = []
    for row, messages, text, ids in zip(rows, conversations, texts, all_ids, strict=True):
        token_ids = _clean_ends(ids, text, tokenizer) if tokenizer is not None else ()
        if max_prompt_tokens is None or len(token_ids) <= max_prompt_tokens:
            own = opened(text, prefill or "")
            columns = {"question": row.question, **row.columns}  # which may hold it under another name
            prompts.append(Prompt(row.id, text, token_ids, row.answer, own, columns, messages))
    return prompts, len(rows) - len(prompts)


def _asked(question: str, instruction: str | None) -> str:
    return f"{question}\n{instruction}" if instruction else question


def _conversation(question: str, system: str, solved: Sequence[tuple[str, str]]) -> Conversation:
    turns = [("system", system)] if system else []
    for asked, answer in solved:
        turns += [("user", asked), ("assistant", answer)]
    return tuple({"role": role, "content": content} for role, content in [*turns, ("user", question)])


def apply_chat_template(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> str:
    """The conversation up to where the next reply starts. Raises PromptError if the template refuses it."""
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise PromptError(
            "task.template: chat, but this model's tokenizer has no chat template; "
            "use r1_zero (made for base models) or a text that contains {question}"
        )
    try:
        return str(
            tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=False, add_generation_prompt=True)
        )
    except TemplateError as error:
        raise PromptError(
            f"task.template: the model's chat template refuses the conversation ({error}); if it takes no system "
            'prompt, use task.system: "" and put the text into task.instruction'
        ) from error


def opened(text: str, prefill: str) -> str:
    """The end of the text that is the assistant's: from a `<think>` that the template leaves open, else the prefill."""
    before = len(text) - len(prefill)
    thought = OPENED.search(text[:before])
    return text[thought.start() if thought else before :]


def _clean_ends(ids: Sequence[int], text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """One beginning-of-sequence where tokenizer and template both write one; no end-of-sequence after a prompt."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if len(ids) > 1 and bos is not None and ids[0] == ids[1] == bos:
        ids = ids[1:]
    if ids and eos is not None and ids[-1] == eos and not text.endswith(str(tokenizer.eos_token)):
        ids = ids[:-1]
    return tuple(ids)
