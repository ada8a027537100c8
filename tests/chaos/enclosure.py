"""Where an episode's commands run: marked, and with a /dev/shm, a TMPDIR and, if asked for, a small disk of their own.

    with Enclosure() as enclosure:
        attempt = enclosure.start(["zero", "run", ...])
        attempt.code(timeout=60)            # as a shell says it: 137 after kill -9
        enclosure.processes()               # what lives of all that was started here, whatever became of its parents

As root the enclosure is a mount namespace, so that nobody else's files are in its /dev/shm, a disk of any size can be
mounted, and no process can leave it. Elsewhere its processes are known by a variable that they inherit.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
MARK = "ZERO_CHAOS_ID"
SHM = Path("/dev/shm")


def can_mount() -> bool:
    """Whether this process may have mounts of its own: root, on most machines."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


class Attempt:
    """One command in an enclosure, from its start to its end; `folder` is its run's directory."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path, folder: Path) -> None:
        self.process, self.folder, self._out, self._err = process, folder, out, err
        self._log = log = folder / "logs" / "run.log"
        self.log_start = self.log_seen = log.stat().st_size if log.exists() else 0

    def running(self) -> bool:
        return self.process.poll() is None

    def code(self, timeout: float) -> int | None:
        """The exit code as a shell says it, 128 + n after signal n; None if it is still running by then."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        return code if code >= 0 else 128 - code

    def log(self) -> str:
        """What it has written to the run's log."""
        return self._since(self.log_start)

    def unseen_log(self) -> str:
        return self._since(self.log_seen)

    def stderr(self) -> str:
        return self._err.read_text(errors="replace")

    def said(self) -> str:
        """All that a user could read."""
        return "\n".join([self._out.read_text(errors="replace"), self.stderr(), self.log()])

    def _since(self, start: int) -> str:
        if not self._log.exists():
            return ""
        with self._log.open("rb") as file:
            file.seek(start)
            return file.read().decode(errors="replace")


class Enclosure:
    """`run_dir` does not exist at first, but with `disk_mib`: then it is an empty disk of that size (root only)."""

    def __init__(self, disk_mib: int | None = None) -> None:
        self.mark = secrets.token_hex(8)
        self.base = Path(tempfile.mkdtemp(prefix="zchaos-"))
        self.tmp = self.base / "tmp"
        self.tmp.mkdir()
        self.run_dir = self.base / "a run"  # a name that a shell splits where it is not quoted
        if disk_mib is not None:
            self.run_dir.mkdir()
        self._holder = self._hold(disk_mib) if can_mount() else None
        self._shm_before = set() if self._holder else set(os.listdir(SHM))
        self._attempts = 0

    def __enter__(self) -> Enclosure:
        return self

    def __exit__(self, *_: object) -> None:
        while found := self.processes():
            for process in found:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(found, timeout=5)
        if self._holder is not None:
            self._holder.kill()
            self._holder.communicate()
        shutil.rmtree(self.base, ignore_errors=True)

    def seen(self, path: Path) -> Path:
        """The path by which this process reaches what is `path` in the enclosure."""
        return Path(f"/proc/{self._holder.pid}/root{path}") if self._holder else path

    def start(self, line: Sequence[str]) -> Attempt:
        """Start a command in the background. Its output is kept beside the run's directory."""
        self._attempts += 1
        out, err = (self.base / f"{name}-{self._attempts}.txt" for name in ("out", "err"))
        prefix = ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", f"--wd={self.base}"] if self._holder else []
        with out.open("wb") as out_file, err.open("wb") as err_file:
            process = subprocess.Popen(
                [*prefix, *line],
                cwd=self.base,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out_file,
                stderr=err_file,
                start_new_session=True,  # a signal to the tests' terminal is not one to the run
                preexec_fn=_default_signals,
            )
        return Attempt(process, out, err, self.seen(self.run_dir))

    def processes(self) -> list[psutil.Process]:
        """All that live of what was started here; not the zombies."""
        inside = _mounts(self._holder.pid) if self._holder else None
        found = []
        for process in psutil.process_iter():
            if self._holder and process.pid == self._holder.pid:
                continue
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                marked = process.environ().get(MARK) == self.mark
                if (marked or (inside and _mounts(process.pid) == inside)) and process.status() != "zombie":
                    found.append(process)
        return found

    def shared_memory(self) -> list[Path]:
        """Files in /dev/shm that were not there before."""
        return [path for path in self.seen(SHM).iterdir() if path.name not in self._shm_before]

    def _hold(self, disk_mib: int | None) -> subprocess.Popen[str]:
        """A process that keeps the namespace open until its input ends, with this process at the latest."""
        mounts = f"mount -t tmpfs -o size=1g tmpfs {SHM}"
        if disk_mib is not None:
            mounts += f" && mount -t tmpfs -o size={disk_mib}m tmpfs '{self.run_dir}'"
        line = ["unshare", "--mount", "--propagation", "private", "sh", "-c", f"{mounts} && echo ready && exec cat"]
        holder = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert holder.stdout is not None
        if holder.stdout.readline() != "ready\n":
            raise RuntimeError(f"no mount namespace could be made: {line}")
        return holder

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        caches = Path(tempfile.gettempdir()) / "zchaos-caches"  # not what a run leaves, but what the next one finds
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COLUMNS"))},
            MARK: self.mark,
            "TMPDIR": str(self.tmp),
            "PATH": path,
            "PYTHONPATH": str(ROOT),
            "GOMP_SPINCOUNT": "1000",
            "TORCHINDUCTOR_CACHE_DIR": str(caches),
        }


def _default_signals() -> None:
    """A shell's background job ignores SIGINT, and what it starts would inherit that."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _mounts(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/mnt")


def wait_until(condition, within: float, every: float = 0.05) -> bool:  # type: ignore[no-untyped-def]
    """Whether the condition came true within so many seconds."""
    end = time.monotonic() + within
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(every)
    return True
