"""A run that is followed while it goes on: what is new in its directory, read once and never written.

    metrics, evaluations, notes     the lines after those that were read; all of them again where the file was replaced
    rollouts                        each file once: 14 bytes a completion stay in memory; texts when the page asks

A run that is resumed drops steps, so what the page has may be of steps that are no more: that begins another epoch, and
the page is sent everything again.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

from grpo.page.bundle import pack_json
from grpo.page.index import StepIndex, pack_index, read_index, step_of
from grpo.page.state import model_of, state_of
from grpo.page.texts import StepTexts
from grpo.page.vocabulary import find_tokenizer, read_vocabulary
from grpo.record.run import Run, run_of
from grpo.record.stored import HELD_OUT, ROLLOUTS, RecordError, parse_line

KEPT_STEPS = 4  # whose texts stay in memory
Stamp = tuple[int, int, int]  # of a file: inode, size, time of the last change


class LiveLines:
    """The objects of a .jsonl file that grows. A line that has no end yet is being written, and waits."""

    def __init__(self, path: Path, numbers: tuple[str, ...] = ()) -> None:
        self._path, self._numbers = path, numbers
        self._forget()

    def _forget(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.unread: list[str] = []
        self._inode, self._offset, self._line = -1, 0, 0

    def read(self) -> bool:
        """Read what is new; returns whether what was read before is no more."""
        stamp = stamp_of(self._path)
        replaced = self._offset > 0 and (stamp is None or stamp[0] != self._inode or stamp[1] < self._offset)
        if replaced:
            self._forget()
        if stamp is not None and stamp[1] > self._offset:
            self._inode = stamp[0]
            with self._path.open("rb") as file:
                file.seek(self._offset)
                whole, end, _ = file.read().rpartition(b"\n")
            self._offset += len(whole) + len(end)
            for line in whole.split(b"\n") if end else ():
                self._add(line)
        return replaced

    def _add(self, line: bytes) -> None:
        self._line += 1
        try:
            self.rows += [parse_line(line, ("step", *self._numbers))] if line else []
        except (ValueError, RecursionError) as error:
            self.unread.append(f"{self._path}:{self._line} cannot be read, and is left out: {error}")


class LiveRun:
    """One run directory, which need not exist yet. Its methods may be called from several threads."""

    def __init__(self, run_dir: Path) -> None:
        self._dir = run_dir
        self._metrics = LiveLines(run_dir / "metrics.jsonl")
        self._evaluations = LiveLines(run_dir / "evaluations.jsonl", HELD_OUT)
        self._notes = LiveLines(run_dir / "logs" / "notes.jsonl")
        self._epoch = 0
        self._stamps: dict[Path, Stamp] = {}
        self._indexed: list[StepIndex] = []
        self._damaged: dict[Path, str] = {}
        self._texts: dict[int, StepTexts] = {}
        self._lock = Lock()
        self._cached: dict[str, tuple[Stamp | None, Any]] = {}

    def state(self, epoch: str = "", steps: int = 0, seen: str = "") -> dict[str, Any]:
        """What the page shows now (grpo/page/state.py), for one that has `steps` steps of this epoch.

        `steps` of the answer are those from `from` on; `version` names what it says, and an answer to a page that has
        `seen` it is {"unchanged": True}.
        """
        with self._lock:
            self._refresh()
            run = self._run()
            name = f"{os.getpid()}.{self._epoch}"
            start = steps if epoch == name and steps <= len(run.steps) else 0
            state = state_of(run, self._dir, self._status(run))
            state |= {"epoch": name, "indexed": len(self._indexed), "with_tokens": None}
            version = f"{name}/{hash(_key(state))}"
            if version == seen:
                return {"unchanged": True}
            return {**state, "version": version, "from": start, "steps": run.steps[start:]}

    def part(self, name: str) -> bytes:
        """A part of the page. Raises KeyError if there is none of this name, RecordError if its file is damaged."""
        with self._lock:
            kind, *numbers = name.split("-")
            if kind == "vocabulary" and not numbers:
                return pack_json(self._vocabulary())
            if kind not in ("index", "texts", "tokens") or len(numbers) != 2 or not all(map(str.isdecimal, numbers)):
                raise KeyError(name)
            one, other = map(int, numbers)
            if kind == "index":
                return pack_index(self._indexed[one:other])
            return pack_json(getattr(self._texts_of(one), kind)(other))

    def _refresh(self) -> None:
        replaced = [lines.read() for lines in (self._metrics, self._evaluations, self._notes)]
        there = [(path, stamp) for path in self._files() if (stamp := stamp_of(path))]
        gone = any(self._stamps[path] != dict(there).get(path) for path in self._stamps)
        last = self._indexed[-1].step if self._indexed else -1
        late = any(path not in self._stamps and step_of(path) < last for path, _ in there)
        if replaced[0] or gone or late:
            self._epoch += 1
            self._stamps, self._indexed, self._damaged, self._texts = {}, [], {}, {}
        for path, stamp in there:
            if path not in self._stamps:
                self._stamps[path] = stamp
                self._index(path)

    def _files(self) -> list[Path]:
        return sorted((self._dir / "rollouts").glob(ROLLOUTS))

    def _index(self, path: Path) -> None:
        try:
            self._indexed.append(read_index(path))
        except RecordError as error:
            self._damaged[path] = str(error)

    def _run(self) -> Run:
        recipe = self._once("recipe.yaml", lambda path: path.read_text(encoding="utf-8", errors="replace")) or ""
        unread = [*self._metrics.unread, *self._evaluations.unread, *self._notes.unread, *self._damaged.values()]
        return run_of(
            self._dir,
            self._metrics.rows,
            self._evaluations.rows,
            self._notes.rows,
            recipe,
            self._once("summary.json", Path.read_bytes),
            unread,
        )

    def _once(self, name: str, read: Callable[[Path], Any]) -> Any:
        """A file of the run as `read` reads it, again only when it has changed; None if there is none."""
        path = self._dir / name
        stamp = stamp_of(path)
        if self._cached.get(name, (None, None))[0] != stamp:
            try:
                self._cached[name] = (stamp, read(path) if stamp else None)
            except OSError:  # it has gone since
                return None
        return self._cached.get(name, (None, None))[1]

    def _status(self, run: Run) -> str:
        if in_use(self._dir / ".lock"):
            return "running"
        return "finished" if run.summary else "stopped" if run.recipe or run.steps else "waiting"

    def _texts_of(self, step: int) -> StepTexts:
        if step not in self._texts:
            found = next((index for index in self._indexed if index.step == step), None)
            if found is None:
                raise KeyError(f"step {step}")
            self._texts[step] = StepTexts(self._dir / "rollouts" / f"step-{step:06d}.parquet", found)
            while len(self._texts) > KEPT_STEPS:
                del self._texts[next(iter(self._texts))]
        return self._texts[step]

    def _vocabulary(self) -> dict[int, str]:
        recipe = self._once("recipe.yaml", lambda path: path.read_text(encoding="utf-8", errors="replace")) or ""
        path = find_tokenizer(self._dir, model_of(recipe))
        return read_vocabulary(path) if path else {}


def stamp_of(path: Path) -> Stamp | None:
    """None if there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _key(state: dict[str, Any]) -> str:
    """Two states of the same key show the same."""
    return json.dumps({**state, "steps": len(state["steps"])}, default=str)


def in_use(lock: Path) -> bool:
    """Whether a process holds the lock of a run's directory (recipes/jobs/run_dir.py): asked, without taking it."""
    try:
        with lock.open("rb") as file:
            asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)  # struct flock of Linux
            return struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, asked))[0] != fcntl.F_UNLCK
    except OSError:
        return False
