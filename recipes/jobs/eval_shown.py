"""What an evaluation says in the terminal: while it is asked, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from eval.ask.run import RESULTS, Work
from eval.page.table import results_table, shortened_in_words
from eval.page.unread import unread_in_words
from eval.store import Store
from eval.types import Generation
from grpo.rollout.engine import RolloutError

SHOWN = 3  # reasons that a message quotes
Say = Callable[[str], None]


def printer(console: Console) -> Say:
    """Prints text as it is: no markup, no wrapping."""
    return lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)


def say_dropped(name: str, dropped: Sequence[tuple[str, str]], say: Say) -> None:
    if dropped:
        shown = "; ".join(f"{problem}: {reason}" for problem, reason in dropped[:SHOWN])
        say(f"{name}: {len(dropped)} problems left out, whose gold answer does not pass the verifier. {shown}")


def say_passed_over(store: Store, say: Say) -> None:
    if wrong := store.passed_over:
        shown = "\n".join(f"  {line}" for line in wrong[:SHOWN])
        say(f"{len(wrong)} parts of what was stored cannot be read; what they held is asked for again\n{shown}")


def say_cut_short(work: Work, context: int | None, say: Say) -> None:
    if n := work.cut_short(context):
        say(
            f"{work.name}: {n} of {len(work.prompts)} prompts leave less than max_tokens "
            f"({work.benchmark.protocol.max_tokens}) of the {context} tokens that the model takes, so less is asked for"
        )


def show(
    found: Mapping[str, Any],
    generations: Sequence[Generation],
    folder: Path,
    say: Say,
    lost: RolloutError | None = None,
) -> int:
    """Print the table, what is missing and why, and where everything is; write the report. Returns the exit code."""
    from eval.page.report import write_report

    say(results_table(found))
    for name, entry in found.items():
        _say_failed(name, entry, [one for one in generations if one.benchmark == name], say)
        if shortened := shortened_in_words(entry):
            say(f"{name}: {shortened}")
        if unread := unread_in_words(entry, [one for one in generations if one.benchmark == name]):
            say(f"{name}: {unread}")
    empty = [name for name, entry in found.items() if not entry["n_generations"]]
    if lost is not None:
        say(f"failed: the servers were lost before everything was asked for: {lost}")
    elif empty:
        say(f"failed: no completion came of {', '.join(empty)}")
    say(f"results: {folder / RESULTS}   report: {write_report(folder)}")
    return 1 if lost is not None or empty else 0


def _say_failed(name: str, entry: Mapping[str, Any], generations: Sequence[Generation], say: Say) -> None:
    failed, n = entry["failed"], sum(entry["failed"].values())
    if not n:
        return
    causes = ", ".join(f"{count} {cause}" for cause, count in failed.items())
    say(f"{name}: {n} of {n + entry['n_generations']} completions failed ({causes}); they are in no rate")
    for reason in list(dict.fromkeys(one.reason for one in generations if one.failure))[:SHOWN]:
        say(f"  {reason}")
