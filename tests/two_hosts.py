"""Two hosts on this machine, as nodes of a Ray cluster: network namespaces with a cable between them.

    with two_hosts(head_cpus=3, far_cpus=1) as hosts:
        process = hosts.run([...])              # on the head's machine
        hosts.far.processes()                   # what runs there, Ray's own too
        hosts.cable(False); hosts.cable(True)
        hosts.far.kill()                        # the machine is gone; hosts.start_far() brings another one

The file system is one. But what is in `hosts.near_only` the far host does not see: its Ray has an empty disk there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
ADDRESSES = ("10.213.0.1", "10.213.0.2")
PORT = 6379
CABLE = "cable"  # the interface, on both hosts
OWN_PROCESSES = ("unshare", "--pid", "--fork", "--mount-proc")  # sees none of the other host's
# A dead node is known in 5 s, not 15; one that is silent, after 50, as by default.
NOTICED = {"RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "1000"}


def cannot() -> str:
    """Why there can be no two hosts here; "" if there can."""
    if find_spec("ray") is None:
        return "ray is not installed (pip install ray)"
    if shutil.which("ip") is None:
        return "no ip command (apt-get install iproute2)"
    name = f"zero-{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespaces: {made.stderr.strip()}"
    _ip("netns", "delete", name)
    own = subprocess.run([*OWN_PROCESSES, "true"], capture_output=True, text=True)
    return f"no PID namespaces: {own.stderr.strip()}" if own.returncode else ""


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


@dataclass
class Namespace:
    name: str
    address: str
    ray: set[int] = field(default_factory=set)  # Ray's own processes, when it was started

    def inside(self, line: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.name, *line]

    def processes(self) -> list[psutil.Process]:
        found = []
        for pid in _ip("netns", "pids", self.name).split():
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(int(pid))
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def kill(self) -> None:
        """Everything on it, at once, until nothing is left."""
        end = time.monotonic() + 30
        while (left := self.processes()) and time.monotonic() < end:
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=1)
        assert not self.processes()

    def foreign(self) -> list[str]:
        """Processes that are not Ray's own: an actor, or what one has started."""
        found = []
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                line = " ".join(process.cmdline())
                if process.pid not in self.ray and not line.startswith("ray::IDLE") and "/ray/" not in line:
                    found.append(line)
        return found


class Hosts:
    def __init__(self, folder: Path) -> None:
        names = [f"zero-{os.getpid()}-{side}" for side in ("near", "far")]
        self.near, self.far = (Namespace(name, address) for name, address in zip(names, ADDRESSES, strict=True))
        self.near_only = folder / "near"
        self.near_only.mkdir()
        self.address = f"{ADDRESSES[0]}:{PORT}"
        self._temporary = folder / "ray"
        self._environment = os.environ | NOTICED | {"PYTHONPATH": str(ROOT), "RAY_DISABLE_USAGE_STATS": "1"}
        for name in ("OMP_NUM_THREADS", "RAY_ADDRESS"):
            self._environment.pop(name, None)

    def lay_cable(self) -> None:
        for host in (self.near, self.far):
            _ip("netns", "add", host.name)
        end = ("netns", self.far.name, "type", "veth", "peer", "name", CABLE, "netns", self.near.name)
        _ip("link", "add", CABLE, *end)
        for host in (self.near, self.far):
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", CABLE)
            _ip("-n", host.name, "link", "set", "lo", "up")
        self.cable(True)

    def cable(self, plugged: bool) -> None:
        for host in (self.near, self.far) if plugged else (self.far,):
            _ip("-n", host.name, "link", "set", CABLE, "up" if plugged else "down")

    def start_head(self, cpus: int) -> None:
        self._ray(self.near, cpus, "--head", f"--port={PORT}", f"--temp-dir={self._temporary}")

    def start_far(self, cpus: int) -> None:
        hidden = ["sh", "-c", f'mount -t tmpfs none {self.near_only} && exec "$@"', "sh"]
        self._ray(self.far, cpus, f"--address={self.address}", before=hidden)

    def run(self, line: Sequence[str], host: Namespace | None = None) -> subprocess.Popen[str]:
        pipe, inside = subprocess.PIPE, (host or self.near).inside(line)
        return subprocess.Popen(inside, env=self._environment, stdout=pipe, stderr=pipe, text=True)

    def remove(self) -> None:
        for host in (self.near, self.far):
            with suppress(subprocess.CalledProcessError):
                host.kill()
            subprocess.run(["ip", "netns", "delete", host.name], capture_output=True)

    def _ray(self, host: Namespace, cpus: int, *more: str, before: Sequence[str] = ()) -> None:
        ray = str(Path(sys.executable).with_name("ray"))
        line = [*before, ray, "start", f"--node-ip-address={host.address}", f"--num-cpus={cpus}", *more]
        line += ["--object-store-memory=100000000", *(["--include-dashboard=false"] if "--head" in more else [])]
        for last in (False, False, True):  # Ray gives up after 30 s, which a busy machine may need
            done = subprocess.run(host.inside(line), env=self._environment, capture_output=True, text=True)
            if done.returncode == 0:
                break
            host.kill()
            assert not last, done.stdout + done.stderr
        host.ray = {process.pid for process in host.processes()}


@contextmanager
def two_hosts(head_cpus: int, far_cpus: int) -> Iterator[Hosts]:
    folder = Path(tempfile.mkdtemp(prefix="zr-", dir="/tmp"))  # short: the names of Ray's sockets are below it
    hosts = Hosts(folder)
    try:
        hosts.lay_cable()
        hosts.start_head(head_cpus)
        hosts.start_far(far_cpus)
        yield hosts
    finally:
        hosts.remove()
        shutil.rmtree(folder, ignore_errors=True)
