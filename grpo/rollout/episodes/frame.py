"""How a conversation goes on: the tokens between one reply of the model and the next.

Nothing is rendered anew: what the model sampled stays as it is, and the tokens after it are appended. They are what the
template puts behind a reply: the end of the model's turn, as far as the model has not written it, the environment's
messages, and what opens the next turn.

A chat template that turns back is refused: one that writes earlier turns in another way once there is a later one, but
for the thoughts that some leave out of earlier turns (here they stay), or one that leaves a message out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from grpo.prompts import OPENED, PromptError, apply_chat_template, opened
from grpo.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPLY = "reply-of-the-model"  # stands for each reply where a template is asked what follows it
R1_ZERO_TURN = "\nUser: {message}\nAssistant: <think>"
_PROBE = ({"role": "user", "content": "message-of-the-environment"},)


class Frame:
    """
    Args:
        template: of the task: r1_zero, chat, or a text that contains {question}.
        turn_template: of a text: contains {message}. None: as the template.
        prefill: how each reply starts, after what the template opens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str,
        turn_template: str | None = None,
        prefill: str | None = None,
    ) -> None:
        self._tokenizer, self._chat, self._prefill = tokenizer, template == "chat", prefill or ""
        usual = R1_ZERO_TURN if template == "r1_zero" else template.replace("{question}", "{message}")
        self._turn = turn_template or usual

    def check(self, conversation: Sequence[Message]) -> None:
        """Raises PromptError if the template cannot be gone on with after this start of a conversation."""
        if self._chat:
            self._chat_turn(conversation, _PROBE)

    def next(
        self, start: Sequence[Message], said: Sequence[Message], new: Sequence[Message], last: int
    ) -> tuple[tuple[int, ...], str]:
        """The tokens that come after the last reply, and what they open of the next one.

        Args:
            start: the conversation that the prompt rendered; () of a text.
            said: since then, with the reply as the last message.
            new: what the environment says to that.
            last: the last token that the model sampled.

        Raises PromptError if the template cannot be gone on with.
        """
        if self._chat:
            text = self._chat_turn([*start, *said[:-1]], new)
            ids = self._encode(text + self._prefill)
        else:
            message = "\n".join(message["content"] for message in new)
            text = self._turn.replace("{message}", message)
            # After the end of a turn, as where it stands: some tokenizers write the start of a text in another way.
            end = self._tokenizer.eos_token or ""
            ids = self._encode(end + text + self._prefill)
            ids = ids[len(self._encode(end)) :]
        return tuple(self._after(ids, last)), opened(text + self._prefill, self._prefill)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def _after(self, ids: list[int], last: int) -> list[int]:
        """Without the end of the turn, which the model has sampled itself, and white space before it."""
        if not self._chat or last not in ids:
            return ids
        place = ids.index(last)
        before = str(self._tokenizer.decode(ids[:place], skip_special_tokens=False))
        return ids if before.strip() else ids[place + 1 :]

    def _chat_turn(self, earlier: Sequence[Message], new: Sequence[Message]) -> str:
        """What the template writes after the reply to `earlier`, up to where the next reply starts."""
        earlier = [{**message, "content": REPLY} if message["role"] == "assistant" else message for message in earlier]
        before = apply_chat_template(self._tokenizer, earlier)
        reply = {"role": "assistant", "content": REPLY}
        after = apply_chat_template(self._tokenizer, [*earlier, reply, *new])
        thought = OPENED.search(before)  # a thought that the template opens for a new reply only
        for start in (before, before[: thought.start()] if thought else before):
            between, reply_there, rest = after.removeprefix(start).partition(REPLY)
            # Some templates write a space before a reply, which the model may sample itself.
            if after.startswith(start) and reply_there and not between.strip():
                break
        else:
            raise PromptError(
                "task.template: chat: this model's chat template writes earlier turns anew once there is a later one, "
                "so tokens that were sampled cannot be gone on with. It was\n"
                f"  {_end(before)}\nand is then\n  {_end(after)}\n"
                "Use a text template with task.environment.turn_template, or another model"
            )
        place = 0
        for message in new:
            place = rest.find(message["content"].strip(), place)
            if place < 0:
                raise PromptError(
                    f"task.template: chat: this model's chat template leaves out the message of role {message['role']} "
                    f"{message['content'][:60]!r}; have the environment say it in the role user"
                )
        return rest


def _end(text: str) -> str:
    return repr(text if len(text) <= 200 else "..." + text[-200:])
