"""`zero`, and any Python program, as a process that is forked from one which has imported what a run imports.

A process of its own, with its own id, session, output and signals; it only starts in 0.1 s in place of 10. What a test
is about must not be what happens while modules are imported: PYTHONPATH comes after the imports here, and variables
that libraries read while they are imported (OMP_NUM_THREADS, HF_HOME) come too late.

The ranks that torchrun's agent starts in such a process are forked from it, as its children.
"""

from __future__ import annotations

import inspect
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PRELOADED = (
    "recipes.api recipes.command.main recipes.jobs.train recipes.jobs.sft recipes.jobs.sample recipes.jobs.filter "
    "recipes.jobs.evaluate recipes.stages.run trl peft transformers.models.qwen3.modeling_qwen3 matplotlib.pyplot "
    "torch.distributed.run"
)
# mypy is told to pass over what is subprocess's own and not in its stubs: there is no public way to do this.
# What subprocess.Popen tells the method that starts the child, after the arguments.
TOLD = list(inspect.signature(subprocess.Popen._execute_child).parameters)[2:]  # type: ignore[attr-defined]


class Popen(subprocess.Popen[str]):
    """subprocess.Popen of [python or a script of it, ...]; with text, pipes, cwd, env, start_new_session."""

    def _execute_child(self, args: Sequence[str], *rest: Any) -> None:  # type: ignore[override]
        told = dict(zip(TOLD, rest, strict=True))
        assert not any(told[name] for name in ("shell", "preexec_fn", "executable")), "not of a forked process"
        order = {
            "arguments": [os.fspath(one) for one in args],
            "cwd": os.fspath(told["cwd"] or Path.cwd()),
            "env": dict(told["env"] if told["env"] is not None else os.environ),
            "session": told["start_new_session"],
        }
        ends = [told[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        self.pid = int(_parent().ask(order, [end if end != -1 else k for k, end in enumerate(ends)]))
        self._child_created = True
        self._pidfd = os.pidfd_open(self.pid)
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(told[name] for name in pipes))  # type: ignore[attr-defined]

    def _try_wait(self, flags: int) -> tuple[int, int]:
        if not flags & os.WNOHANG:
            select.select([self._pidfd], [], [])
        elif not select.select([self._pidfd], [], [], 0)[0]:
            return 0, 0
        status = int(_parent().ask({"wait": self.pid}, []))
        os.close(self._pidfd)
        return self.pid, status

    def _internal_poll(self, _deadstate: int | None = None, **_: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(False):  # type: ignore[attr-defined]
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


class Rank(subprocess.Popen[str]):
    """What torchrun's agent starts, forked from it where the agent's process is a forked one."""

    def _execute_child(self, args: Sequence[str], *rest: Any) -> None:  # type: ignore[override]
        told = dict(zip(TOLD, rest, strict=True))
        ends = [told[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        order = {"arguments": args, "cwd": Path.cwd(), "env": told["env"], "session": told["start_new_session"]}
        self.pid = os.fork()
        if not self.pid:
            become(order, [end if end != -1 else k for k, end in enumerate(ends)])
        self._child_created = True


def run(
    args: Sequence[str], check: bool = False, timeout: float | None = None, **where: Any
) -> subprocess.CompletedProcess[str]:
    """subprocess.run, with its output as text."""
    with Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **where) as process:
        try:
            out, errors = process.communicate(timeout=timeout)
        except BaseException:  # the process does not outlive who waits for it
            process.kill()
            raise
    done = subprocess.CompletedProcess(args, process.returncode, out, errors)
    if check:
        done.check_returncode()
    return done


class _Parent:
    """The process that is forked from, as a test sees it. It ends when the tests do."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        line = [sys.executable, "-m", "tests.forked", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                line, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL, cwd=ROOT
            )

    def ask(self, what: dict[str, Any], descriptors: list[int]) -> str:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(what).encode()], descriptors)
            answer = self._socket.recv(64).decode()
        assert answer, f"the process that is forked from has ended: {self._process.poll()}"
        return answer


_parents: list[_Parent] = []
_starting = threading.Lock()


def _parent() -> _Parent:
    with _starting:
        if not _parents:
            _parents.append(_Parent())
    return _parents[0]


# -- The process that is forked from --------------------------------------------------------------------------------


def serve(connection: socket.socket) -> None:
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    for name in PRELOADED.split():
        __import__(name)
    subprocess_handler.Popen = Rank
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        if not message:
            return
        order = json.loads(message)
        if "wait" in order:
            answer = os.waitpid(order["wait"], 0)[1]
        else:
            answer = os.fork()
            if not answer:
                connection.close()
                become(order, descriptors)
            for one in descriptors:
                os.close(one)
        connection.send(str(answer).encode())


def become(order: dict[str, Any], descriptors: Sequence[int]) -> None:
    """A Python that runs these arguments, from its start to its end."""
    code = 1
    try:
        if order["session"]:
            os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        for number, one in enumerate(descriptors):
            os.dup2(one, number)
        os.closerange(3, 1 << 20)
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["env"])
        _renew_streams()
        code = _program(order["arguments"])
    except BaseException:  # what is left of it must not go on as the process that is forked from
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _renew_streams() -> None:
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for the life of the process
    for number, name, errors in ((1, "stdout", "strict"), (2, "stderr", "backslashreplace")):
        buffering = 1 if number == 2 or os.isatty(number) else -1
        stream = open(number, "w", buffering, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _program(arguments: Sequence[str]) -> int:
    """Its exit code, as the interpreter ends."""
    import atexit

    code: Any = 0
    try:
        _execute(list(arguments))
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:  # as the interpreter does
        sys.excepthook(*sys.exc_info())
        code = 1
    # What the interpreter does at its end, not in mypy's stubs either: waits for the threads that are no daemons.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return int(code or 0)


def _execute(arguments: list[str]) -> None:
    python = Path(arguments[0]).name.startswith("python")
    rest = arguments[1:] if python else arguments
    first = [""]  # of sys.path
    while rest[0] in ("-P", "-u"):
        first = [] if rest[0] == "-P" else first
        rest = rest[1:]
    more = [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one and one != str(ROOT)]
    for start in (Path(one) / "sitecustomize.py" for one in more):
        if start.exists():
            runpy.run_path(str(start))
    if rest[0] in ("-c", "-m"):
        sys.path[:0] = [*first, *more]
        sys.argv = [rest[0], *rest[2:]]
        if rest[0] == "-m":
            runpy.run_module(rest[1], run_name="__main__", alter_sys=True)
            return
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        exec(compile(rest[1], "<string>", "exec"), module.__dict__)
    else:
        sys.path[:0] = [str(Path(rest[0]).resolve().parent), *more]
        sys.argv = rest
        runpy.run_path(rest[0], run_name="__main__")


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
