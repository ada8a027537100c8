"""Which completions hold which words, so that a page finds a text among a million completions without reading them.

A word is a run of one kind of characters, in lower case: a to z, 0 to 9, or what is not ASCII. A part is of a block of
consecutive steps, whose completions are numbered in order:

    words      the block's words, joined by newlines
    bytes_W    int32, how many bytes of `places` are each word's
    places     uint8, for each word the completions that hold it: differences between their numbers, the first one from
               0, each 7 bits a byte, the lowest first, with the eighth bit set where more of it follows

A completion holds what is searched (filters.js): its own texts, and those that its group shares.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

from grpo.page.bundle import pack_arrays
from grpo.page.index import StepIndex
from grpo.record.stored import reading

WORD = re.compile(r"[a-z]+|[0-9]+|[^\x00-\x7f]+")
SHARED = ("prompt_id", "prompt", "answer")
OWN = ("completion", "extracted", "reason")
BLOCK_CHUNKS, BLOCK_COMPLETIONS = 50, 100_000  # of one part: the texts' chunks (index.py), about a megabyte each
LEAST_CHUNKS, MOST_CHUNKS = (
    20,
    1500,
)  # of a page; up to the least all is read in a moment, beyond the most the oldest is


def word_blocks(indices: Sequence[StepIndex]) -> list[list[StepIndex]]:
    """The steps of each part, in order: the newest, as far as there is room for them; none where it is not worth it."""
    if sum(index.chunks for index in indices) <= LEAST_CHUNKS:
        return []
    blocks: list[list[StepIndex]] = []
    chunks = completions = total = 0
    for index in reversed(indices):
        total += index.chunks
        if total > MOST_CHUNKS:
            break
        chunks, completions = chunks + index.chunks, completions + len(index.outcome_N)
        if not blocks or chunks > BLOCK_CHUNKS or completions > BLOCK_COMPLETIONS:
            blocks.append([])
            chunks, completions = index.chunks, len(index.outcome_N)
        blocks[-1].append(index)
    return [block[::-1] for block in reversed(blocks)]


def pack_words(steps: Iterable[tuple[Path, StepIndex]]) -> bytes:
    """The part of these steps, whose rollouts files are given. Raises RecordError if one is damaged."""
    import numpy as np

    numbers: dict[str, int] = {}
    found, sizes = array("i"), array("i")  # words of all completions, one after the other; how many each has
    for path, index in steps:
        _add(path, index, numbers, found, sizes)
    words = sorted(numbers)
    rank = np.empty(len(words), "int32")
    rank[[numbers[word] for word in words]] = np.arange(len(words), dtype="int32")
    word_P = rank[np.frombuffer(found, "int32")]  # P: a word in a completion
    order = np.argsort(word_P, kind="stable")  # by word, completions in order
    word_P = word_P[order]
    place_P = np.repeat(np.arange(len(sizes), dtype="int32"), np.frombuffer(sizes, "int32"))[order]
    first_P = np.diff(word_P, prepend=-1) != 0
    step_P = np.where(first_P, place_P, np.diff(place_P, prepend=0)).astype("int32")
    bytes_P = np.ones(len(step_P), "uint8")
    for more in range(1, 5):
        bytes_P += step_P >= 1 << 7 * more
    begin_P = np.cumsum(bytes_P, dtype="int64") - bytes_P
    places = np.zeros(int(bytes_P.sum()), "uint8")
    for k in range(int(bytes_P.max(initial=0))):
        at = bytes_P > k
        places[begin_P[at] + k] = (step_P[at] >> 7 * k & 127) | 128 * (bytes_P[at] > k + 1)
    bytes_W = np.add.reduceat(bytes_P, np.flatnonzero(first_P), dtype="int32") if words else np.zeros(0, "int32")
    return pack_arrays({"bytes": bytes_W.astype("int32"), "places": places}, {"words": "\n".join(words)})


def _add(path: Path, index: StepIndex, numbers: dict[str, int], found: array[int], sizes: array[int]) -> None:
    from pyarrow import parquet

    with reading(path):
        columns = parquet.read_table(path, columns=[*SHARED, *OWN], page_checksum_verification=True)
        shared, own = (list(zip(*(columns[n].to_pylist() for n in names), strict=True)) for names in (SHARED, OWN))
    row = 0
    for size in index.size_G.tolist():
        of_group = _words(shared[row])
        for texts in own[row : row + size]:
            words = of_group | _words(texts)
            found.extend([numbers.setdefault(word, len(numbers)) for word in words])
            sizes.append(len(words))
        row += size


def _words(texts: Sequence[str | None]) -> set[str]:
    return set(WORD.findall("\n".join([text for text in texts if text]).lower()))
