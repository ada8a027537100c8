"""Read the program out of a completion: the last fenced block after the thinking.

    ```python
    print(input()[::-1])
    ```

Of an `<answer>`, what is in it counts: its last block, or the whole of it where it has none, for a model that was asked
for the tags may write the program in them as it is. A block that is not closed is `malformed`, unless the answer's tag
ends it; so is text after an answer, as for every verifier. Thinking that was not finished holds no program.
"""

from __future__ import annotations

import re

from rewards.verifier.extract import Reading, after_thinking

MAX_PROGRAM = 64 * 1024  # characters
_SPECIAL = re.compile(r"\A(?:<\|\w{1,30}\|>|</s>|\s)+\Z")  # tokens that end a turn
_OPENING = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*[\w+#.-]*[ \t]*(?:\{.*\})?[ \t]*$")


def read_program(completion: str) -> Reading:
    """The program, or why there is none. One pass over the text."""
    text = after_thinking(completion.replace("\r\n", "\n"))
    if text is None:
        return Reading(None, "no_answer", "the thinking is not finished: no </think> after the last <think>")
    tagged, after = _in_tags(text)
    if after:
        return Reading(None, "malformed", "text after </answer>")
    block, closed = _last_block(text if tagged is None else tagged)
    if block is None:
        block, closed = (tagged or "").strip("\n") or None, True
    if block is None or not block.strip():
        return Reading(None, "no_answer", "no fenced block, ``` on a line before and after the program")
    if not closed:
        return Reading(None, "malformed", "the last fenced block is not closed")
    if len(block) > MAX_PROGRAM:
        return Reading(None, "malformed", f"a program of more than {MAX_PROGRAM} characters")
    return Reading(block, None, "fence")


def _in_tags(text: str) -> tuple[str | None, str]:
    """What is in the last <answer> that is closed, and what follows it."""
    before, closed, after = text.rpartition("</answer>")
    if not closed or "<answer>" not in before:
        return None, ""
    return before.rpartition("<answer>")[2], _SPECIAL.sub("", after[-100:]) if len(after) <= 100 else after.strip()


def _last_block(text: str) -> tuple[str | None, bool]:
    """The last block, and whether it is closed."""
    block: str | None = None
    fence, lines = "", [""]
    for line in text.split("\n"):
        opening = _OPENING.match(line)
        if not fence:
            if opening:
                fence, lines = opening[1], []
        elif _closes(line, fence):
            block, fence = "\n".join(lines), ""
        else:
            lines.append(line)
    if not fence:
        return block, True
    rest = "\n".join(lines).rstrip()
    if rest.endswith(fence):  # the fence on the program's last line
        return rest.removesuffix(fence), True
    return rest, False


def _closes(line: str, fence: str) -> bool:
    word = line.strip()
    return len(word) >= len(fence) and set(word) == {fence[0]}
