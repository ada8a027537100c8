"""Ask worker processes that cannot outlive their deadline, exceed their memory or take others down with them.

    caller ──line──▶ worker: imports once, then forks ──▶ child: answers items, one at a time
           ◀─reply──────────────────────────────────────┘

Items and replies carry a number: a reply that comes late, to an item that was given up, is dropped.
The kernel ends a child whose item has used up its CPU seconds (SIGPROF) or memory (RLIMIT_AS); the worker
answers for it and forks the next child in milliseconds. CPU seconds, so that a busy machine turns no answer into
a timeout. Nothing depends on signals or threads of the caller, so that it works the same in any thread. A worker
ends when its input does, hence with the caller, however that ends: idle at once, busy at its deadline.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import mmap
import os
import queue
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rewards.verifier.verdict import MAX_REASON, Verdict, attempt, error

START_SECONDS = 120.0  # that a worker may need to import what it serves
SLOWDOWN = 10.0  # wall seconds that one CPU second may take on a busy machine before the worker is killed
ITEMS_PER_CHILD = 1000  # then a fresh one is forked, so that caches cannot grow without bound
_ENDED, _RECYCLED = 0, 3  # exit codes of a child


class Worker:
    """One process started as `python -m module cpu_seconds memory_gib`."""

    def __init__(self, module: str, cpu_seconds: float, memory_gib: float):
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self._wall_seconds = cpu_seconds * SLOWDOWN
        self._sent = 0  # the number of the latest item; 0 is the start
        self._unread = b""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(cpu_seconds), str(memory_gib)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is the caller's to handle
        )
        assert self._process.stdin
        assert self._process.stdout
        self._input, self._output = self._process.stdin, self._process.stdout
        if self._read(START_SECONDS) is None:
            self.kill()
            self._log.seek(0)
            raise RuntimeError(f"the worker {module} did not start: {self._log.read().decode(errors='replace')[-800:]}")

    def ask(self, item: Mapping[str, str]) -> Verdict | None:
        """The worker's answer; None if there is none (see `failure`), and the worker must be killed."""
        self._sent += 1
        try:
            self._input.write(json.dumps([self._sent, item]).encode() + b"\n")
            self._input.flush()
        except BrokenPipeError:
            return None
        end = time.monotonic() + self._wall_seconds
        while (reply := self._read(end - time.monotonic())) is not None:
            number, outcome, reason = reply
            if number == self._sent:
                return outcome, reason
        return None

    def failure(self) -> Verdict:
        if self._ready(0):  # at the end of its output
            return "error", "the worker died"
        return "timeout", f"the worker did not answer in {self._wall_seconds:g} seconds and was killed"

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.release()

    def release(self) -> None:
        """Close this process's ends of the pipes."""
        for end in (self._output, self._input):
            with contextlib.suppress(BrokenPipeError):
                end.close()

    def _ready(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        return bool(poll.poll(max(0.0, seconds) * 1000))

    def _read(self, seconds: float) -> list | None:
        """The next reply; None if none is whole in time, or the output has ended."""
        end = time.monotonic() + seconds
        while b"\n" not in self._unread:
            piece = os.read(self._output.fileno(), 65536) if self._ready(end - time.monotonic()) else b""
            if not piece:
                return None
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)


class Pool:
    """At most `size` workers, started when first needed. Thread-safe; a forked process gets workers of its own."""

    def __init__(self, module: str, size: int, cpu_seconds: float, memory_gib: float):
        self._start = lambda: Worker(module, cpu_seconds, memory_gib)
        self._size = size
        self._reset()
        atexit.register(self.close)
        os.register_at_fork(after_in_child=self._forget)

    def ask(self, item: Mapping[str, str]) -> Verdict:
        """The outcome and its reason. Raises RuntimeError if a worker cannot be started."""
        worker = self._idle.get()
        reply = None
        try:
            if worker is None:
                worker = self._start()
                self.workers.add(worker)
            reply = worker.ask(item)
            return reply or worker.failure()
        finally:
            if worker is not None and reply is None:  # also on Ctrl-C: a late reply would go to the next item
                worker.kill()
                self.workers.discard(worker)
                worker = None
            self._idle.put(worker)

    def ask_all(self, items: Sequence[Mapping[str, str]]) -> list[Verdict]:
        """`ask` for many, in order, by all workers at once. What goes wrong for one is its outcome `error`."""
        if len(items) < 2:
            return [self._attempt(item) for item in items]
        with ThreadPoolExecutor(self._size) as threads:
            return list(threads.map(self._attempt, items))

    def _attempt(self, item: Mapping[str, str]) -> Verdict:
        return attempt(error, self.ask, item)

    def close(self) -> None:
        """Kill every worker. The pool may be asked again."""
        workers = self.workers
        self._reset()
        for worker in workers:
            worker.kill()

    def _reset(self) -> None:
        self.workers: set[Worker] = set()
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(self._size):
            self._idle.put(None)

    def _forget(self) -> None:
        for worker in self.workers:
            worker.release()
        self._reset()


def serve(answer: Callable[[Mapping[str, str]], Verdict]) -> None:
    """The worker's side: answer items from stdin until it ends. Started by `Worker`."""
    cpu_seconds, memory_gib = float(sys.argv[1]), float(sys.argv[2])
    limit = int(memory_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    replies = os.dup(1)
    os.dup2(2, 1)  # libraries print to stdout
    gc.freeze()  # children share these pages
    item_in_work = mmap.mmap(-1, 8)  # its number, as the child that has it says; 0 where it has none
    _reply(replies, 0, "ready", "")
    while True:
        pid = os.fork()
        if pid == 0:
            _answer_items(answer, replies, item_in_work, cpu_seconds)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        number = int.from_bytes(item_in_work[:])
        item_in_work[:] = bytes(8)
        if code == _ENDED:
            return
        if number and code == -signal.SIGPROF:
            _reply(replies, number, "timeout", f"not settled in {cpu_seconds:g} CPU seconds")
        elif number:
            _reply(replies, number, "error", f"the child that compared it ended with code {code}")


def _answer_items(
    answer: Callable[[Mapping[str, str]], Verdict], replies: int, item_in_work: mmap.mmap, cpu_seconds: float
) -> None:
    for _ in range(ITEMS_PER_CHILD):
        line = sys.stdin.buffer.readline()
        if not line:
            os._exit(_ENDED)
        number, item = json.loads(line)
        item_in_work[:] = number.to_bytes(8)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        outcome, reason = attempt(error, answer, item)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _reply(replies, number, outcome, reason[:MAX_REASON])
        item_in_work[:] = bytes(8)
    os._exit(_RECYCLED)


def _reply(replies: int, number: int, outcome: str, reason: str) -> None:
    os.write(replies, json.dumps([number, outcome, reason]).encode() + b"\n")
