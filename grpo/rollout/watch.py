"""Runs a server's command and makes sure that nothing of it outlives the one that asked for it, however that ends.

    python -P watch.py OWNER_PID PARENT_PID FOLDER:FOLDER... COMMAND...

A process that is killed with -9 cannot clean up after itself. So two watchers stand between the owner and the server:

    owner (trainer, `zero serve`)  >  outer watcher  >  inner watcher  >  command  >  what it starts

Each of the two adopts orphans (PR_SET_CHILD_SUBREAPER), so that no descendant escapes by setsid or a double fork, and
stops everything below it when the process above or below it is gone, or on SIGTERM, SIGHUP or SIGINT. They poll
rather than hold a pipe: forks of the owner would keep a pipe open.

The first folder is the server's own: its TMPDIR, with sockets, vLLM's files, and a list of what its processes have in
/dev/shm. It goes with the server, and so does what is on the list, unless a living process still uses it. The other
folders are the owner's, and go with the owner. Every process of the tree carries the first folder in its environment.

Guaranteed, whatever is killed with -9 or stopped:
- The owner, or one watcher, or both: all that the server started ends, and what it left is removed, in 15 s.
- Both watchers, not the owner: the command dies at once (PR_SET_PDEATHSIG). `end`, which the owner calls when it
  sees that, ends the rest by their environment.
- All three in one instant: the command dies at once. What it started (vLLM's engine notices nothing) lives until the
  next server starts on this machine, whose `sweep` ends it.
Not guaranteed: processes that changed both parent and environment in that last case; names in /dev/shm that were made
and whose makers were all killed within POLL.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import psutil

POLL = 0.2  # seconds
GRACE = 5.0  # seconds that the command has to stop by itself
OWNER_GRACE = 20.0  # seconds that the watchers have; they need about 5 where vLLM does not stop by itself
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SHM = Path("/dev/shm")
SHARED = "shared_memory"  # file in a server's folder: names in /dev/shm that are its processes'
prctl = ctypes.CDLL(None).prctl


def main(arguments: list[str]) -> int:
    owner, parent, folders = int(arguments[0]), int(arguments[1]), arguments[2].split(":")
    outer, own = owner == parent, Path(folders[0])
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    asked_to_stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda number, _: asked_to_stop.append(number))
    before = _shm_entries()  # none of them is the server's
    child = _start_inner(arguments) if outer else _start(json.load(sys.stdin))
    entries = before
    while child.poll() is None and os.getppid() == parent and not asked_to_stop:
        if (now := _shm_entries()) != entries:
            _note_shared(own, now - before, psutil.Process().children(recursive=True))
            entries = now
        time.sleep(POLL)
    _note_shared(own, _shm_entries() - before, psutil.Process().children(recursive=True))
    _stop(child, 2 * GRACE if outer else GRACE)
    _remove(own)
    if not _running(owner):
        for folder in folders[1:]:
            shutil.rmtree(folder, ignore_errors=True)
    return child.returncode or 0


def _start_inner(arguments: list[str]) -> subprocess.Popen[bytes]:
    """The same program again, in a session of its own: a signal to the outer watcher's group does not reach it.

    The command goes through its stdin: who looks for the server by its command line finds the server.
    """
    owner, _, folders, *command = arguments
    line = [sys.executable, "-P", __file__, owner, str(os.getpid()), folders]
    child = subprocess.Popen(line, stdin=subprocess.PIPE, start_new_session=True)
    assert child.stdin is not None
    with suppress(BrokenPipeError), child.stdin as pipe:
        pipe.write(json.dumps(command).encode())
    return child


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    def die_with_parent() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    return subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)


def _stop(child: subprocess.Popen[bytes], grace: float) -> None:
    """Ask the child to stop, then kill whatever is left below us."""
    child.terminate()
    with suppress(subprocess.TimeoutExpired):
        child.wait(grace)
    _kill_descendants(psutil.Process())


def _kill_descendants(process: psutil.Process) -> None:
    while alive := [one for one in process.children(recursive=True) if _running(one.pid)]:
        _kill(alive)


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=0.2)


def _running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# -- Shared memory ------------------------------------------------------------------------------------------------


def _shm_entries() -> set[tuple[str, int]]:
    """(name, inode) of each file in /dev/shm."""
    with suppress(FileNotFoundError), os.scandir(SHM) as entries:
        return {(entry.name, entry.inode()) for entry in entries if not entry.is_dir(follow_symlinks=False)}
    return set()


def _mapped(processes: Iterable[psutil.Process]) -> set[int]:
    """Inodes of what they have mapped of /dev/shm: a semaphore is mapped under another name than it has later."""
    inodes: set[int] = set()
    for process in processes:
        with suppress(OSError):
            maps = Path(f"/proc/{process.pid}/maps").read_text()
            inodes |= {int(inode) for inode in re.findall(rf" (\d+) +{SHM}/", maps)}
    return inodes


def _note_shared(own: Path, entries: set[tuple[str, int]], tree: Iterable[psutil.Process]) -> None:
    """Add those of the entries that the tree has mapped to the list in its folder."""
    inodes = _mapped(tree)
    names = {name for name, inode in entries if inode in inodes} - _noted(own)
    if names:
        with suppress(OSError), (own / SHARED).open("a") as file:
            file.writelines(f"{name}\n" for name in sorted(names))


def _noted(own: Path) -> set[str]:
    try:
        return set((own / SHARED).read_text().splitlines())
    except OSError:
        return set()


def _remove(own: Path) -> None:
    """Remove a server's folder, and its shared memory; what a living process still uses stays."""
    if names := _noted(own):
        used = _mapped(psutil.process_iter())
        for name, inode in _shm_entries():
            if name in names and inode not in used:
                with suppress(OSError):
                    (SHM / name).unlink()
    shutil.rmtree(own, ignore_errors=True)


# -- The owner's side ---------------------------------------------------------------------------------------------


def own_name() -> str:
    """A new name for a file or folder of this process, that tells `sweep` whose it is: zero-rl-PID-..."""
    return f"zero-rl-{os.getpid()}-{_pid_namespace()}{uuid4().hex[:6]}"


def _pid_namespace() -> str:
    """Containers may share /dev/shm: a PID means nothing outside its namespace."""
    return f"{os.stat('/proc/self/ns/pid').st_ino & 0xFFFFF:05x}"


def end(watcher: subprocess.Popen[bytes], own: Path) -> None:
    """Stop the server that has the folder `own`. Returns when all of its processes are gone, stopped ones too."""
    watcher.terminate()
    with suppress(subprocess.TimeoutExpired):  # a stopped watcher does nothing
        watcher.wait(OWNER_GRACE)
    if watcher.returncode is None:
        _kill_descendants(psutil.Process(watcher.pid))
        watcher.kill()
        watcher.wait()
    _end_marked(own)


def _end_marked(own: Path) -> None:
    """Kill every process that has the folder in its environment, then remove what they leave."""
    while marked := [process for process in psutil.process_iter() if _has(process, own)]:
        _note_shared(own, _shm_entries(), marked)
        _kill(marked)
    _remove(own)


def _has(process: psutil.Process, own: Path) -> bool:
    with suppress(psutil.Error, OSError):
        return process.environ().get("TMPDIR") == str(own) and process.status() != psutil.STATUS_ZOMBIE
    return False


def sweep(temporary: Path) -> None:
    """End and remove what runs left in `temporary` and /dev/shm that were killed together with their watchers."""
    for left in [path for place in {temporary, SHM} for path in place.glob("zero-rl-*")]:
        if _owner_is_dead(left):
            _end_marked(left)


def _owner_is_dead(path: Path) -> bool:
    name = re.fullmatch(rf"zero-rl-(\d+)-{_pid_namespace()}[0-9a-f]+", path.name)
    try:
        if name is None or not _running(int(name[1])):
            return name is not None
        return psutil.Process(int(name[1])).create_time() > path.stat().st_mtime + 1  # somebody else's PID by now
    except (psutil.NoSuchProcess, FileNotFoundError):
        return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
