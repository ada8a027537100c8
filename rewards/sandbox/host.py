"""A host: one sandbox, made beforehand, that forks the sandboxes of many programs (hosting.py).

    with together(n):        n programs, in any threads: rewards, run_all
        run(...), judge(...)

Starting bubblewrap and an interpreter takes most of a short program's time. Here both are started once for as long as
somebody is in `together`; what each program gets is as new as before: namespaces, /tmp, /proc, limits of its own, and
a process that has never run another program. Whoever is alone starts its sandbox directly, and so does everybody where
a host does not work.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import logging
import marshal
import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from rewards.sandbox.seccomp import program as seccomp_program
from rewards.sandbox.tools import Tool

logger = logging.getLogger(__name__)

START_SECONDS = 60.0  # that a host, or one of its sandboxes, may need on a busy machine
WORTH = 4  # programs; of fewer, starting the host takes longer than it saves
HOST_DISK = 2**20  # bytes of its own /tmp, which nothing writes to
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_INSIDE = Path(__file__).with_name("inside.py").read_text(encoding="utf-8")
_HOSTING = Path(__file__).with_name("hosting.py").read_text(encoding="utf-8")
_START = """
seccomp, inside = marshal.loads(open(0, "rb", closefd=False).read())
drivers, code = serve(socket.socket(fileno=%d), inside, seccomp)
exec(code, {"__name__": "__main__", "DRIVERS": drivers})
"""
CHANNEL = 10  # see hosting.py


class HostError(Exception):
    """A sandbox of the host cannot be made."""


class Forked:
    """A sandbox's first process, as far as subprocess.Popen is used of one."""

    def __init__(self, tale: socket.socket) -> None:
        """Raises HostError if the sandbox was not made."""
        self.returncode: int | None = None
        self._tale = tale
        tale.settimeout(START_SECONDS)
        try:
            said, ancillary, _, _ = tale.recvmsg(4096, socket.CMSG_SPACE(_CREDENTIALS.size))
        except TimeoutError:
            said, ancillary = b"", []
        if said != b"ready":
            tale.close()
            raise HostError(said.decode(errors="replace") or "it did not answer")
        self.pid: int = next(
            _CREDENTIALS.unpack(data)[0] for _, kind, data in ancillary if kind == socket.SCM_CREDENTIALS
        )
        self._itself: int | None = None
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            self._itself = os.pidfd_open(self.pid)
        tale.settimeout(None)

    def kill(self) -> None:
        """Raises ProcessLookupError if it has ended."""
        if self._itself is None:
            raise ProcessLookupError
        signal.pidfd_send_signal(self._itself, signal.SIGKILL)

    def wait(self) -> int:
        """As subprocess has it: -n after signal n."""
        if self.returncode is None:
            what, _, status = self._tale.recv(4096).partition(b" ")
            # Nothing is said where the host itself was ended, with all in it.
            self.returncode = os.waitstatus_to_exitcode(int(status)) if what == b"ended" else 1
            self._tale.close()
            if self._itself is not None:
                os.close(self._itself)
        return self.returncode


class Host:
    """Raises OSError if it cannot be started."""

    def __init__(self, tool: Tool) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self._drivers: dict[str, int] = {}
        self._numbers = itertools.count()
        given = os.memfd_create("zero", 0)
        with theirs, open(given, "wb+") as file:
            file.write(marshal.dumps((seccomp_program(), _INSIDE), 2))
            file.seek(0)
            # No --die-with-parent: that is the death of a thread. The host ends when the connection does.
            line = [part for part in tool.command(HOST_DISK, "/", None) if part != "--die-with-parent"]
            program = f"{_HOSTING}\n{_START % theirs.fileno()}"
            # As what programs have: a file and two pipes, or sys.stdout would take its pipe for something else.
            self._process = subprocess.Popen(
                [*line, "-I", "-X", "utf8", "-c", program],
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def driver(self, text: str) -> int:
        """The number under which it is compiled once for all."""
        with self._lock:
            if text not in self._drivers:
                self._drivers[text] = next(self._numbers)
                self._control.send(marshal.dumps({"driver": text, "name": self._drivers[text]}, 2))
            return self._drivers[text]

    def start(self, disk_bytes: int, descriptors: Sequence[int]) -> Forked:
        """A sandbox whose first process has these as its stdin, stdout, stderr and, if there is one more, CHANNEL.

        Raises HostError or OSError.
        """
        tale, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            tale.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            message = marshal.dumps({"disk_bytes": disk_bytes}, 2)
            given = array.array("i", [*descriptors[:3], theirs.fileno(), *descriptors[3:]])
            self._control.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, given)])
        return Forked(tale)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """End it, and all that is in it."""
        self._control.close()
        self._process.communicate()

    def disown(self) -> None:
        """Leave it to the process that this one was forked from."""
        self._control.close()
        self._process.returncode = 0  # not ours to wait for


# -- Who shares one ------------------------------------------------------------------------------------------------


class _Shared:
    """The host of those who are in `together`; started by the first sandbox of theirs."""

    def __init__(self) -> None:
        self.lock, self.inside, self.broken = threading.Lock(), 0, False
        self.host: Host | None = None


_shared = _Shared()


def _forget() -> None:
    """In a child of this process: the host is its parent's."""
    global _shared
    if _shared.host:
        _shared.host.disown()
    _shared = _Shared()


os.register_at_fork(after_in_child=_forget)


@contextlib.contextmanager
def together(programs: int) -> Iterator[None]:
    """So many programs are run within it, in any threads; of enough, the sandboxes share a host, which is gone when the
    last one leaves."""
    if programs < WORTH:
        yield
        return
    shared = _shared
    with shared.lock:
        shared.inside += 1
    try:
        yield
    finally:
        with shared.lock:
            shared.inside -= 1
            host = None if shared.inside else shared.host
            shared.host = shared.host if shared.inside else None
        if host:
            host.close()


def host_of(tool: Tool) -> Host | None:
    """The host, if somebody is in `together` and there can be one."""
    shared = _shared
    with shared.lock:
        if tool.name != "bubblewrap" or not shared.inside or shared.broken:
            return None
        if shared.host is None:
            shared.host = Host(tool)
        return shared.host


def give_up(host: Host, reason: Exception) -> None:
    """It made no sandbox. One that has ended is followed by another; where it cannot, there will be none."""
    shared = _shared
    with shared.lock:
        if not host.alive:
            shared.host = None if shared.host is host else shared.host
            return
        said, shared.broken = shared.broken, True
    if not said:
        logger.warning("sandboxes are started one by one, which takes longer: %s", reason)
