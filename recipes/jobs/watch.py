"""`zero watch`: the page of a run or a chain from a server on 127.0.0.1, which reads the directory and never writes.

    /                                the page
    /state                           what is new, asked for every second
    /part/NAME                       completions, as the page of a finished run has them (grpo/page/write.py)
    /stages/NAME/, .../state, ...    the same of a stage, where the directory is a chain's

The server has nothing that the run knows of: it may be killed and started again. It runs at the lowest priority, so
that it takes the time that the run leaves.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from grpo.page.bundle import as_json
from grpo.page.live import LiveRun
from grpo.page.shell import BASE, asset, shell
from grpo.page.write import SCRIPTS
from grpo.record.stored import RecordError
from recipes.errors import InputError
from recipes.jobs.watch_chain import chain_state, is_chain_dir, stage_names

HOST, PORT = "127.0.0.1", 8642
PORTS_TRIED = 50
NICE = 19
KNOWN = (
    "recipe.yaml",
    "metrics.jsonl",
    "chain.yaml",
    "stages",
    "logs",
    "rollouts",
)  # of which a run's directory has one


def serve_page(run_dir: Path, port: int | None, say: Callable[[str], object]) -> None:
    """Serve until Ctrl-C or a signal. Raises InputError for a directory of something else, or a port that is taken."""
    check_directory(run_dir)
    with bound(run_dir, port) as server:
        if not any((run_dir / name).exists() for name in KNOWN):
            say(f"{run_dir} holds no run yet; the page waits for it")
        say(f"watching {run_dir} at http://{HOST}:{server.server_address[1]}/ (Ctrl-C ends the page, not the run)")
        os.nice(NICE)
        server.serve_forever(poll_interval=0.2)


def check_directory(run_dir: Path) -> None:
    if run_dir.exists() and not run_dir.is_dir():
        raise InputError(f"{run_dir} is a file; expected the directory of a run, such as runs/mine")
    there = sorted(path.name for path in run_dir.glob("[!.]*")) if run_dir.is_dir() else []
    if there and not any(name in there for name in KNOWN):
        raise InputError(
            f"{run_dir} is no run's directory: it has {', '.join(there[:5])}, and none of {', '.join(KNOWN)}; name the "
            "directory of one run or of a chain"
        )


def bound(run_dir: Path, port: int | None) -> PageServer:
    """The server on its port; without one, on the first free one from PORT on."""
    for tried in [port] if port is not None else range(PORT, PORT + PORTS_TRIED):
        try:
            return PageServer((HOST, tried), run_dir)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            reason = error.strerror
    where = f"port {port}" if port is not None else f"every port from {PORT} to {PORT + PORTS_TRIED - 1}"
    raise InputError(f"{where} of {HOST} cannot be used ({reason}); name another one with --port, or 0 for any")


class PageServer(ThreadingHTTPServer):
    """Pages of one run directory, or of the chain that it turns out to be, and of its stages."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], run_dir: Path) -> None:
        self.run_dir = run_dir
        self._runs: dict[Path, LiveRun] = {}
        self._lock = Lock()
        super().__init__(address, _Handler)

    def run(self, folder: Path) -> LiveRun:
        with self._lock:
            return self._runs.setdefault(folder, LiveRun(folder))

    def answer(self, path: str, query: dict[str, str]) -> tuple[bytes, str]:
        """Content and its type. Raises KeyError if there is no such thing, RecordError if it cannot be read."""
        folder, rest = self._folder(path.removeprefix("/"))
        chain = folder == self.run_dir and is_chain_dir(folder)
        if rest == "":
            return live_page(chain).encode(), "text/html; charset=utf-8"
        if rest == "state":
            steps = query.get("steps", "0")
            run = self.run(folder)
            state = (
                chain_state(folder, self.run, query.get("seen", ""))
                if chain
                else run.state(query.get("epoch", ""), int(steps) if steps.isdecimal() else 0, query.get("seen", ""))
            )
            return as_json({**state, "chain": chain}), "application/json"
        if rest.startswith("part/"):
            return self.run(folder).part(rest.removeprefix("part/")), "application/octet-stream"
        raise KeyError(path)

    def _folder(self, path: str) -> tuple[Path, str]:
        """The run directory that a path is about, and what follows. Only stages that are there are looked for."""
        first, _, more = path.partition("/")
        if first != "stages":
            return self.run_dir, path
        name, _, rest = more.partition("/")
        if name not in stage_names(self.run_dir):
            raise KeyError(path)
        return self.run_dir / "stages" / name, "" if rest == "report.html" else rest


def live_page(chain: bool) -> str:
    if chain:
        return shell(asset("chain.html"), "Zero", "", [asset(name) for name in (*BASE, "chain.js")], {}, source="live")
    return shell(asset("run.html"), "Zero", "", [asset(name) for name in SCRIPTS], {}, source="live")


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = 60

    def do_GET(self) -> None:
        if not self._for_us():
            return self._send(HTTPStatus.FORBIDDEN, b"this page answers to 127.0.0.1 and localhost only", "text/plain")
        asked = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(asked.query).items()}
        try:
            content, kind = self.server.answer(unquote(asked.path), query)
        except KeyError:
            return self._send(HTTPStatus.NOT_FOUND, b"there is no such page", "text/plain")
        except RecordError as error:
            return self._send(HTTPStatus.CONFLICT, str(error).encode(), "text/plain; charset=utf-8")
        self._send(HTTPStatus.OK, content, kind)

    def _for_us(self) -> bool:
        """Whether the browser was sent to this machine by name: a page of elsewhere may point its own name here."""
        name = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        return name in (HOST, "localhost")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        headers: dict[str, Any] = {
            "Content-Type": kind,
            "Content-Length": len(content),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "X-Frame-Options": "DENY",
        }
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        try:
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):  # the page was closed
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a line a second says nothing to the reader of a terminal."""
