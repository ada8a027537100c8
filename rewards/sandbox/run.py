"""Run programs in the sandbox: each in one of its own, many at once.

    caller ──job──▶ sandbox: inside.py ──starts──▶ the program, once for each input
           ◀─frames──┘
           watches from outside: CPU, memory and wall time of every process in there

The watch needs nothing that is inside: it reads the machine's /proc. Whatever ends a run early ends the sandbox, hence
its first process, and with it the kernel ends the rest. When the output ends, nothing is left in there.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from rewards.sandbox.host import together
from rewards.sandbox.start import start
from rewards.sandbox.tools import SandboxName, Tool, find
from rewards.sandbox.types import Execution, Limits, Program, RunOutcome
from rewards.sandbox.watch import use_of

AT_ONCE = max(2, len(os.sched_getaffinity(0)))  # sandboxes of this process
START_SECONDS = 60.0  # that a sandbox may need on a busy machine
LOOK_SECONDS = 0.05  # between two looks at what a sandbox uses
END_SECONDS = 10.0  # that the kernel may need to end one
REASON = 300  # characters of a program's last words that a reason quotes
LATEST = 2**20  # bytes of a frame's head that come at once
_slots = threading.BoundedSemaphore(AT_ONCE)


def slot() -> contextlib.AbstractContextManager[Any]:
    """The right to have one sandbox more, or a pair that is joined."""
    return _slots


def run(program: Program, stdin: str = "", limits: Limits = Limits(), sandbox: SandboxName = "auto") -> Execution:  # noqa: B008
    """Run a program once. Whatever it does is the outcome.

    Raises SandboxError where no sandbox works, ValueError for a name that is none. Safe in any thread.

    Example: run(Program("print(6 * 7)")).stdout == "42\\n"
    """
    return next(run_each(program, [stdin], limits, sandbox))


def run_all(
    programs: Iterable[tuple[Program, str]],
    limits: Limits = Limits(),  # noqa: B008
    sandbox: SandboxName = "auto",
) -> list[Execution]:
    """`run` for many (program, stdin), in order, as many at once as there are cores."""
    jobs = list(programs)
    with together(len(jobs)), ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(lambda one: run(one[0], one[1], limits, sandbox), jobs))


def run_each(
    program: Program,
    inputs: Sequence[str],
    limits: Limits = Limits(),  # noqa: B008
    sandbox: SandboxName = "auto",
) -> Generator[Execution, None, None]:
    """Run a program with each of the inputs, one after the other in one sandbox, compiled once.

    The limits are those of one run. A program that does not compile gives one Execution; what ends the sandbox
    (timeout, memory) is the last. A caller that has seen enough closes the generator.
    """
    if not inputs:
        return
    with slot(), Box(program, limits, find(sandbox), inputs=inputs) as box:
        left = len(inputs)
        for execution in box.executions():
            yield execution
            left -= 1
            if left == 0:
                return


class Frame(NamedTuple):
    """What inside.py says of one run."""

    what: str
    status: str
    milliseconds: int
    output: bytes
    errors: bytes


class Box:
    """One sandbox with its program. Leaving it ends it.

    driver: a program in Python that the sandbox runs in the program's place (rewards/code/): it finds the program's
    code in `job`, and has `channel`, a descriptor of the caller's, as its descriptor 3.
    """

    def __init__(
        self,
        program: Program,
        limits: Limits,
        tool: Tool,
        inputs: Sequence[str] = ("",),
        driver: str = "",
        channel: int | None = None,
        data: Any = None,
    ):
        self.limits, self._unread = limits, b""
        self._folder = tempfile.mkdtemp(prefix="zero-program-") if tool.name == "none" else None
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the sandbox
        self._process, self._output = start(
            program, limits, tool, inputs, driver, channel, data, self._said, self._folder
        )
        self.renew()
        self._ready = False

    def __enter__(self) -> Box:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def renew(self) -> None:
        """The next run begins: its time is counted from here."""
        self._since, self._cpu_before = time.monotonic(), use_of(self._process.pid).cpu_seconds

    def executions(self) -> Iterator[Execution]:
        """What comes, run by run, as long as it is asked for; the last is one that ended the sandbox."""
        while True:
            if (came := self.poll()) is None:
                continue
            yield executed(came, self.limits) if isinstance(came, Frame) else came
            if isinstance(came, Execution) or came.what == "compile":
                return
            self.renew()

    def poll(self, seconds: float = LOOK_SECONDS) -> Frame | Execution | None:
        """The next run's frame; an Execution where the sandbox had to be ended or ended itself; None: nothing yet."""
        goes_on = self._more(seconds)
        frame = self._whole_frame()
        if frame is not None and frame.what == "ready":
            self._ready = True
            self.renew()
            frame = self._whole_frame()
        if frame is not None:
            return frame
        return self.over() if goes_on else self._ended()

    def over(self) -> Execution | None:
        """What the program used too much of, if anything; the sandbox is ended then."""
        if time.monotonic() - self._since < LOOK_SECONDS:
            return None
        use, limits = use_of(self._process.pid), self.limits
        cpu, wall = use.cpu_seconds - self._cpu_before, time.monotonic() - self._since
        patience = limits.wall_seconds + (0 if self._ready else START_SECONDS + 2 * limits.compile_seconds)
        outcome: RunOutcome
        if use.memory_bytes > limits.memory_mib * 2**20:
            outcome, reason = "memory", f"used more than {limits.memory_mib} MiB"
        elif self._ready and cpu > limits.cpu_seconds + 1:  # the kernel ends one process at its limit; these are many
            outcome, reason = "timeout", f"ran for more than {limits.cpu_seconds:g} s of CPU"
        elif wall > patience:
            outcome, reason = "timeout", f"did not end in {limits.wall_seconds:g} s"
        else:
            return None
        self.end()
        return Execution(outcome, "", "", None, cpu, reason)

    def end(self) -> None:
        """End everything in the sandbox, and wait until it has ended."""
        if self._process.returncode is not None:
            return
        use = use_of(self._process.pid)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()  # bubblewrap and unshare take the first process along, and that all others
        if self._folder:
            _kill(use.processes)
        deadline = time.monotonic() + END_SECONDS
        while time.monotonic() < deadline and self._more(LOOK_SECONDS):
            self._unread = b""
        self._process.wait()
        os.close(self._output)
        self._said.close()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _ended(self) -> Execution:
        """The output is at its end, before all was said."""
        code = self._process.wait()
        self._said.seek(0)
        said = self._said.read(4096).decode(errors="replace").strip()[-REASON:]
        if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
            return Execution("failed", "", "", None, 0.0, "its sandbox was killed: by itself, or for want of memory")
        return Execution("error", "", "", None, 0.0, f"the sandbox ended with code {code}: {said}")

    def _whole_frame(self) -> Frame | None:
        head, newline, rest = self._unread.partition(b"\n")
        if not newline:
            return None
        parts = head.split()
        if len(parts) != 5 or not all(part.isdigit() for part in parts[2:]):
            return self._nonsense()
        n_output, n_errors = int(parts[3]), int(parts[4])
        if max(n_output, n_errors) > self.limits.output_kib * 1024:
            return self._nonsense()
        if len(rest) < n_output + n_errors:
            return None
        self._unread = rest[n_output + n_errors :]
        what, status = parts[0].decode(errors="replace"), parts[1].decode(errors="replace")
        return Frame(what, status, int(parts[2]), rest[:n_output], rest[n_output : n_output + n_errors])

    def _nonsense(self) -> Frame:
        """A program wrote where only inside.py should."""
        self.end()
        return Frame("run", str(-signal.SIGKILL), 0, b"", b"wrote into the sandbox's own output")

    def _more(self, seconds: float) -> bool:
        """Whether the output goes on, after waiting so long for it."""
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return True
        piece = os.read(self._output, LATEST)
        self._unread += piece
        return bool(piece)


def executed(frame: Frame, limits: Limits) -> Execution:
    """A run that came to its end, in words."""
    output, errors = frame.output.decode(errors="replace"), frame.errors.decode(errors="replace")
    seconds, last = frame.milliseconds / 1000, _last_words(errors)

    def made(outcome: RunOutcome, code: int | None, reason: str) -> Execution:
        return Execution(outcome, output, errors, code, seconds, reason)

    if frame.status == "flood":
        return made("output", None, f"wrote more than {limits.output_kib} KiB")
    code = int(frame.status) if frame.status.lstrip("-").isdigit() else -signal.SIGKILL
    if frame.what == "compile":
        return made("compile_error", code, last)
    if code == 0:
        return made("ok", 0, "")
    late = seconds >= limits.cpu_seconds
    if code == -signal.SIGXCPU or (code == -signal.SIGKILL and late):
        return made("timeout", None, f"ran for more than {limits.cpu_seconds:g} s of CPU")
    if code == -signal.SIGSYS:
        return made("forbidden", code, "asked for a network, a mount or another thing that no program may have")
    if any(word in errors[-2000:] for word in ("MemoryError", "std::bad_alloc", "Cannot allocate memory")):
        return made("memory", code, f"needed more than {limits.memory_mib} MiB")
    how = f"ended by {_signal_name(-code)}" if code < 0 else f"ended with code {code}"
    return made("failed", code, f"{how}: {last}" if last else how)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_words(errors: str) -> str:
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    with_error = [line for line in lines if "error" in line.lower()]
    return (with_error[0] if with_error and len(lines) > 1 and " error: " in with_error[0] else (lines or [""])[-1])[
        :REASON
    ]


def _kill(processes: Sequence[int]) -> None:
    for pid in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
