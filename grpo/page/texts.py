"""The texts of a run's completions, and their tokens, chunk by chunk (grpo/page/index.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo.page.index import StepIndex
from grpo.record.stored import reading

if TYPE_CHECKING:
    import pyarrow as pa

# Of a group's rows, which share them; and of each row.
SHARED = ("prompt_id", "prompt", "prefill", "messages", "answer", "columns")
OWN = ("completion", "reward", "rewards", "extra", "outcome", "extracted", "reason", "advantage", "finish_reason")
TOKENS = ("token_ids", "logprobs", "versions", "trained")


class StepTexts:
    """The rows of one rollouts file. Raises RecordError if it is damaged."""

    def __init__(self, path: Path, index: StepIndex) -> None:
        from pyarrow import parquet

        self._path, self._index = path, index
        with reading(path):
            table = parquet.read_table(path, page_checksum_verification=True)
            self._table = table.select([name for name in (*SHARED, *OWN, *TOKENS) if name in table.column_names])
            if len(table) != int(index.size_G.sum()):
                raise ValueError(f"{len(table)} rows, expected {int(index.size_G.sum())}: it was written anew")

    def texts(self, chunk: int) -> list[dict[str, Any]]:
        """Its groups in order: what their rows share, and `rows` with what each has of its own."""
        first, rows = self._rows(chunk, (*SHARED, *OWN))
        versions = self._versions(first, len(rows))
        found, at = [], 0
        for size in self._sizes(chunk):
            found.append(_group(rows[at : at + size], versions[at : at + size]))
            at += size
        return found

    def tokens(self, chunk: int) -> list[list[dict[str, Any]]]:
        """For each of its groups, for each completion: token ids, log-probs in nats, weight versions.

        `trained` says for each token whether the update saw it, where the file has such a column; else all of a
        completion with an advantage are trained, as far as its group was not dropped.
        """
        _, rows = self._rows(chunk, TOKENS)
        found, at = [], 0
        for size in self._sizes(chunk):
            found.append([_tokens(row) for row in rows[at : at + size]])
            at += size
        return found

    def token_ids(self) -> set[int]:
        import pyarrow.compute as pc

        return set(pc.unique(pc.list_flatten(self._table["token_ids"])).to_pylist())

    def _places(self, chunk: int) -> range:
        """The groups of the chunk, which are consecutive."""
        places = [place for place in range(len(self._index.prompts)) if self._index.chunk_of(place) == chunk]
        return range(places[0], places[-1] + 1) if places else range(0)

    def _sizes(self, chunk: int) -> list[int]:
        return [int(self._index.size_G[place]) for place in self._places(chunk)]

    def _rows(self, chunk: int, columns: Sequence[str]) -> tuple[int, list[dict[str, Any]]]:
        """The chunk's first row, and its rows."""
        first = int(self._index.size_G[: self._places(chunk).start].sum())
        known = [name for name in columns if name in self._table.column_names]
        with reading(self._path):
            return first, self._table.select(known).slice(first, sum(self._sizes(chunk))).to_pylist()

    def _versions(self, first: int, count: int) -> list[list[int] | None]:
        """Of each row, the oldest and the newest weights that sampled it."""
        versions: pa.ChunkedArray = self._table["versions"].slice(first, count)
        return [_ends(one.values) if one.is_valid else None for one in versions]


def _ends(versions: pa.Array) -> list[int] | None:
    import pyarrow.compute as pc

    ends = pc.min_max(versions)
    return [ends["min"].as_py(), ends["max"].as_py()] if ends["min"].is_valid else None


def _group(rows: Sequence[Mapping[str, Any]], versions: Sequence[list[int] | None]) -> dict[str, Any]:
    shared = {name: rows[0].get(name) for name in SHARED}
    shared |= {name: _plain(shared[name]) for name in ("messages", "columns")}
    return {**shared, "rows": [_own(row) | {"versions": ends} for row, ends in zip(rows, versions, strict=True)]}


def _own(row: Mapping[str, Any]) -> dict[str, Any]:
    own = {name: row.get(name) for name in OWN}
    return own | {name: _plain(own[name]) for name in ("rewards", "extra")}


def _tokens(row: Mapping[str, Any]) -> dict[str, Any]:
    ids, logprobs, versions = (row.get(name) or [] for name in TOKENS[:3])
    found = {"ids": ids, "logprobs": [x if x is None else round(x, 3) for x in logprobs]}
    if len(set(versions)) > 1:
        found["versions"] = versions
    if row.get("trained") is not None:
        found["trained"] = [int(bool(one)) for one in row["trained"]]
    return found


def _plain(text: str | None) -> Any:
    """What a column of JSON holds; one that is not JSON stays the text that it is."""
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return text
