"""Start a sandbox with its program: in the host, where there is one (host.py), else by itself."""

from __future__ import annotations

import contextlib
import marshal
import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from rewards.sandbox.host import CHANNEL, Forked, HostError, give_up, host_of
from rewards.sandbox.seccomp import program as seccomp_program
from rewards.sandbox.tools import Tool
from rewards.sandbox.types import Limits, Program

_INSIDE = Path(__file__).with_name("inside.py").read_text(encoding="utf-8")
Started = tuple["subprocess.Popen[bytes] | Forked", int]  # the first process, and where what it says is read


def start(
    program: Program,
    limits: Limits,
    tool: Tool,
    inputs: Sequence[str],
    driver: str,
    channel: int | None,
    data: Any,
    errors: IO[bytes],
    folder: str | None,
) -> Started:
    """See Box for the arguments. `errors`: where the first process's stderr goes; `folder`: of sandbox: none."""
    job = _job(program, limits, inputs, data)
    disk = limits.disk_mib * 2**20 + 4 * max(map(len, inputs), default=0)
    if host := host_of(tool):
        descriptors = [errors.fileno(), *([] if channel is None else [channel])]
        try:
            own = {"driver": host.driver(driver) if driver else "", "channel": None if channel is None else CHANNEL}
            with _memory_file(marshal.dumps(job | own, 2)) as given, _pipe() as (output, theirs):
                return host.start(disk, [given, theirs, *descriptors]), os.dup(output)
        except (HostError, OSError) as error:
            give_up(host, error)
    filter_bytes = seccomp_program() if tool.name == "bubblewrap" else None
    with contextlib.ExitStack() as stack:
        given = stack.enter_context(_memory_file(marshal.dumps(job | {"driver": driver, "channel": channel}, 2)))
        filter_fd = stack.enter_context(_memory_file(filter_bytes)) if filter_bytes else None
        output, theirs = stack.enter_context(_pipe())
        command = tool.command(disk, folder or "/", filter_fd)
        process = subprocess.Popen(
            [*command, "-I", "-X", "utf8", "-c", _INSIDE],
            stdin=given,
            stdout=theirs,
            stderr=errors,
            pass_fds=[fd for fd in (filter_fd, channel) if fd is not None],
            start_new_session=True,
        )
        return process, os.dup(output)


def _job(program: Program, limits: Limits, inputs: Sequence[str], data: Any) -> dict[str, Any]:
    language = program.spoken
    return {
        "files": {language.file: language.wrap.replace("@", program.source).encode(errors="replace")},
        "file": language.file,
        "compile": shlex.split(language.compile) if language.compile else None,
        "run": None if language.in_process else shlex.split(language.run),
        "inputs": [text.encode(errors="replace") for text in inputs],
        "cpu_seconds": float(limits.cpu_seconds),
        "compile_seconds": float(limits.compile_seconds),
        "memory_bytes": limits.memory_mib * 2**20,
        "disk_bytes": limits.disk_mib * 2**20,
        "output_bytes": limits.output_kib * 1024,
        "processes": limits.processes,
        "data": data,
    }


@contextlib.contextmanager
def _memory_file(content: bytes) -> Iterator[int]:
    """A descriptor of a file in memory, at its start."""
    fd = os.memfd_create("zero", 0)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)
