"""Which sandbox there is, and the command line that starts a process in it.

    bubblewrap  `bwrap` as flatpak uses it: namespaces of its own for users, processes, network, files, and a filter of
                system calls (seccomp.py)
    unshare     the same namespaces by util-linux's `unshare`, `mount` and `setpriv`, without the filter: where
                bubblewrap is missing
    none        no sandbox: a folder and limits. Only where somebody asked for it by name

In the first two a program sees /usr (read-only), a /tmp of its own that is gone afterwards, and nothing else. Under
root it runs as the user `nobody`, for the kernel limits no process of root's.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SandboxName = Literal["auto", "bubblewrap", "unshare", "none"]
PYTHON_VARIABLE = "ZERO_SANDBOX_PYTHON"  # an interpreter for programs in Python, such as a venv's with numpy
SYSTEM_PYTHON = "/usr/bin/python3"
NOBODY = 65534
PROBE_SECONDS = 30.0
PROBED = "in the sandbox"
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}
_LOWEST = (3, 9)  # of the interpreter: os.pidfd_open


class SandboxError(RuntimeError):
    """No sandbox works here. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Python:
    """An interpreter, and the folders outside of /usr without which it does not start."""

    path: str
    folders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tool:
    """A sandbox that works here. Example: Tool("bubblewrap", "bubblewrap 0.8.0", Python("/usr/bin/python3"))"""

    name: Literal["bubblewrap", "unshare", "none"]
    version: str
    python: Python

    def command(self, disk_bytes: int, folder: str, filter_fd: int | None) -> list[str]:
        """The line that starts the interpreter inside, to which its own arguments are appended."""
        if self.name == "bubblewrap":
            return [*_as_nobody(), *_bubblewrap(self.python, disk_bytes, filter_fd), self.python.path]
        if self.name == "unshare":
            return [*_as_nobody(), *_unshare(self.python, disk_bytes), self.python.path]
        return ["env", "-i", "-C", folder, *_variables({**_ENVIRONMENT, "HOME": folder}), self.python.path]


def find(name: SandboxName = "auto") -> Tool:
    """The sandbox of that name; of `auto`, the first of bubblewrap and unshare that works.

    Raises SandboxError if it does not work here, ValueError on another name.
    """
    if name not in ("auto", "bubblewrap", "unshare", "none"):
        raise ValueError(f"sandbox: got {name!r}, expected auto, bubblewrap, unshare or none")
    tried = []
    for candidate in ("bubblewrap", "unshare") if name == "auto" else (name,):
        tool = _probed(candidate, os.environ.get(PYTHON_VARIABLE, ""))
        if isinstance(tool, Tool):
            return tool
        tried.append(tool)
    raise SandboxError(
        f"no sandbox for programs works here: {'; '.join(tried)}. Install bubblewrap (apt-get install bubblewrap, dnf "
        "install bubblewrap) and allow user namespaces (in Docker: --security-opt seccomp=unconfined); or say "
        "sandbox: none, which runs what a model wrote with your rights"
    )


def describe(name: SandboxName = "auto") -> str:
    """The sandbox in words, for plans. Raises as `find` does."""
    tool = find(name)
    return f"{tool.version}, programs in Python by {tool.python.path}"


@functools.cache
def _probed(name: Literal["bubblewrap", "unshare", "none"], python: str) -> Tool | str:
    """The tool, once a program ran in it; else why not."""
    program = {"bubblewrap": "bwrap", "unshare": "unshare", "none": "env"}[name]
    if shutil.which(program) is None:
        return f"{name}: there is no {program}"
    try:
        tool = Tool(name, _version(name, program), _python(python))
    except SandboxError as error:
        return f"{name}: {error}"
    command = [*tool.command(2**20, "/", None), "-I", "-c", f"print({PROBED!r})"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{name}: {error}"
    if done.stdout.strip() == PROBED:
        return tool
    last = next(iter(done.stderr.strip().splitlines()[-1:]), f"ended with code {done.returncode}")
    return f"{name}: {last}"


def _version(name: str, program: str) -> str:
    if name == "none":
        return "no sandbox: programs run with your rights"
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=PROBE_SECONDS)
    return f"{name} {done.stdout.split()[-1] if done.stdout.split() else '?'}"


def _python(chosen: str) -> Python:
    """The interpreter asked for, else the system's, else the one that runs this. Raises SandboxError."""
    said = []
    for path in [chosen] if chosen else [SYSTEM_PYTHON, sys.executable]:
        code = "import sys; print(*sys.version_info[:2], sys.prefix, sys.base_prefix, sep='\\n')"
        try:
            # Without a venv's python as its parent: /usr/bin/python3 must not think that it is that one.
            done = subprocess.run([path, "-I", "-c", code], capture_output=True, text=True, timeout=PROBE_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            said.append(f"{path}: {error}")
            continue
        lines = done.stdout.splitlines()
        if len(lines) != 4 or (int(lines[0]), int(lines[1])) < _LOWEST:
            said.append(f"{path} is no Python of {_LOWEST[0]}.{_LOWEST[1]} or newer")
            continue
        folders = tuple(sorted({folder for folder in lines[2:] if not f"{folder}/".startswith("/usr/")}))
        return Python(path, folders)
    raise SandboxError(f"no interpreter for programs in Python: {'; '.join(said)}")


def _as_nobody() -> list[str]:
    if os.getuid() != 0:
        return []
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


def _system() -> Iterator[tuple[str, str | None]]:
    """(path, where it points to, or None for a folder) of what is read-only inside."""
    yield "/usr", None
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/", name)
        if path.is_symlink():
            yield str(path), os.readlink(path)
        elif path.is_dir():
            yield str(path), None
    for name in ("/etc/alternatives", "/etc/ld.so.cache"):  # without which `cc` and libraries are not found
        if Path(name).exists():
            yield name, None


def _bubblewrap(python: Python, disk_bytes: int, filter_fd: int | None) -> list[str]:
    line = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL"]
    line += ["--hostname", "sandbox", "--clearenv"]
    for key, value in _ENVIRONMENT.items():
        line += ["--setenv", key, value]
    for path, target in _system():
        line += ["--symlink", target, path] if target else ["--ro-bind", path, path]
    for folder in python.folders:
        line += ["--ro-bind", folder, folder]
    line += ["--proc", "/proc", "--dev", "/dev"]
    for folder in ("/tmp", "/dev/shm"):
        line += ["--size", str(disk_bytes), "--tmpfs", folder]
    line += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"]
    return line + (["--seccomp", str(filter_fd)] if filter_fd is not None else [])


_BUILD_ROOT = """
set -e
root=/tmp; mount -t tmpfs -o size=1m tmpfs $root; cd $root
mkdir proc dev tmp etc old
for file in "$@"; do
    case $file in --) shift; break;; esac
    if [ -L "$file" ]; then ln -s "$(readlink "$file")" ".$file"
    else
        if [ -d "$file" ]; then mkdir -p ".$file"; else : >".$file"; fi
        mount --bind "$file" ".$file"; mount -o remount,bind,ro,nosuid,nodev ".$file"
    fi
    shift
done
for file in null zero full random urandom; do : >dev/$file; mount --bind /dev/$file dev/$file; done
ln -s /proc/self/fd dev/fd; ln -s /proc/self/fd/0 dev/stdin; ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr; mkdir dev/shm
mount -t tmpfs -o size=$ZERO_DISK tmpfs tmp; mount -t tmpfs -o size=$ZERO_DISK tmpfs dev/shm
mount -t proc -o nosuid,nodev,noexec proc proc
pivot_root . old
umount -l /old; rmdir /old; mount -o remount,bind,ro /
cd /tmp
unset ZERO_DISK
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""


def _unshare(python: Python, disk_bytes: int) -> list[str]:
    line = [
        "env",
        "-i",
        *_variables({**_ENVIRONMENT, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}),
        f"ZERO_DISK={disk_bytes}",
    ]
    line += ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--net", "--ipc"]
    line += ["--uts", "--cgroup", "sh", "-c", _BUILD_ROOT, "sh"]
    return [*line, *(path for path, _ in _system()), *python.folders, "--"]


def _variables(values: dict[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]
