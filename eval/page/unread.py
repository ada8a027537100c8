"""An evaluation in which most answers were not read: why, and the setting that mends it."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from typing import Any

from eval.types import Generation
from rewards.verifier.extract import STRICT, Place, read_answer

UNREAD = ("no_answer", "malformed")  # outcomes of completions whose answer was not found
MOST = 0.5  # of the completions that came
TRIED = 200  # completions that are read in other ways


def unread_in_words(entry: Mapping[str, Any], generations: Iterable[Generation]) -> str:
    """What to say of a benchmark's results; "" where most answers were read.

    Args:
        entry: of results.json.
        generations: the benchmark's.
    """
    came = [one for one in generations if one.failure is None]
    unread = [one for one in came if one.outcome in UNREAD]
    if len(unread) <= MOST * len(came):
        return ""
    protocol = entry.get("protocol") or {}
    said = f"{len(unread):,} of {len(came):,} answers were not read, and count as wrong: the accuracy says little."
    cut = sum(one.finish_reason == "length" for one in unread)
    if 2 * cut > len(unread):
        limit = protocol.get("max_tokens")
        return f"{said} {cut:,} were cut{f' at --max-tokens {limit}' if limit else ''}: allow more"
    read = tuple(protocol.get("read") or STRICT)
    others = [place for place in typing.get_args(Place) if place not in read]
    found = {place: sum(_reads(one.completion, place) for one in unread[:TRIED]) for place in others}
    best = max(found, key=lambda place: found[place], default=None)
    if best and 2 * found[best] > len(unread[:TRIED]):
        return f"{said} --read {','.join((*read, best))} would read {found[best]} of {len(unread[:TRIED])} of them"
    return (
        f"{said} They are read in {', '.join(read)}: ask for one of these with --instruction or --system, or say with "
        f"--read where answers stand ({', '.join(typing.get_args(Place))})"
    )


def _reads(completion: str, place: Place) -> bool:
    return bool(read_answer(completion, (place,)).answer)
