"""The completions of the last step as a terminal shows them, one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import chop_cells
from rich.text import Text

PROMPT_SHARE = 0.25  # of the lines
COLOURS = {"correct": "green", "wrong": "red"}


@dataclass(frozen=True, slots=True)
class Written:
    """What is shown of one completion."""

    head: str  # "sums/train/7 · reward 1.2 · 112 tokens"
    outcome: str  # "" where no reward grades
    prompt: str
    completion: str
    verdict: str  # gold answer and the verifier's reason, "" without them


class Latest:
    """The last step's completions, and which of them is looked at."""

    def __init__(self) -> None:
        self._step, self._all, self._place = 0, list[Written](), 0

    def __bool__(self) -> bool:
        return bool(self._all)

    def put(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows as the recorder keeps them (grpo/record/rows.py); the place in the list stays."""
        self._step, self._all = step, [_written(row) for row in rows]
        self._place = min(self._place, max(len(self._all) - 1, 0))

    def move(self, by: int) -> None:
        self._place = (self._place + by) % max(len(self._all), 1)

    def lines(self, width: int, height: int) -> Text:
        """The completion that is looked at, in at most `height` lines, five or more, of `width` cells."""
        if not self._all:
            return Text("no step has its completions yet", style="dim")
        step, shown = self._step, self._all  # another thread may put the next step's
        place = min(self._place, len(shown) - 1)
        one = shown[place]
        title = f"step {step} · completion {place + 1} of {len(shown)} · {one.head} "
        head = Text(title, style="bold", no_wrap=True, overflow="ellipsis")
        head.append(one.outcome.replace("_", " "), style=f"bold {COLOURS.get(one.outcome, 'yellow')}")
        said = cropped(one.verdict, width, 1) if one.verdict else []
        room = max(height - 1 - len(said), 2)
        prompt = cropped(one.prompt.strip(), width, max(int(PROMPT_SHARE * room), 2))
        completion = cropped(one.completion, width, max(room - len(prompt), 1))
        head.truncate(width, overflow="ellipsis")
        parts = [head, *(Text(line, style="dim") for line in prompt), *map(Text, completion)]
        return Text("\n").join([*parts, *(Text(line, style="cyan") for line in said)])


def cropped(text: str, width: int, height: int) -> list[str]:
    """All of a text in lines of `width` cells, or its beginning and its end in `height` of them."""
    room = width * height
    if len(text) <= 2 * room and len(lines := _wrapped(text, width)) <= height:
        return lines
    if height == 1:
        return [_wrapped(text[:room], width - 1)[0] + "…"]
    top = height // 3
    return [*_wrapped(text[:room], width)[:top], "…", *_wrapped(text[-room:], width)[top + 1 - height :]]


def _wrapped(text: str, width: int) -> list[str]:
    # What a model wrote must not steer the terminal.
    shown = "".join(one if one.isprintable() or one == "\n" else repr(one)[1:-1] for one in text)
    return [piece for line in shown.split("\n") for piece in (chop_cells(line, width) or [""])]


def _written(row: Mapping[str, Any]) -> Written:
    reward = row.get("reward")
    facts = [
        _line(row["prompt_id"]),
        "not scored" if reward is None else f"reward {reward:.3g}",
        f"{len(row.get('token_ids') or ()):,} tokens{', cut' * (row.get('finish_reason') == 'length')}",
    ]
    answer, reason = row.get("answer"), row.get("reason")
    verdict = [f"gold answer {answer}"] * bool(answer) + [str(reason)] * bool(reason)
    return Written(
        " · ".join(facts), row.get("outcome") or "", row["prompt"], row["completion"], _line("; ".join(verdict))
    )


def _line(text: object) -> str:
    return " ".join(str(text).split())
