"""A run's lease of the servers that it is attached to; the server's side, with what a lease means, is vllm/guard.py.

    tenant = Tenant.of_run(output)
    with leased(urls, tenant):     # before anything is loaded: AttachedError if one belongs to another run
        ...                        # renewed by a thread: loading a model stops every event loop

The lease is the run's, not the process's: a run that was killed and goes on at once is not refused by its own lease.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from grpo.rollout.access import LEASE, NOT_YOURS, RUN_HEADER, headers, refused, taken
from grpo.rollout.vllm.attached import START, AttachedError

BEAT = 15.0  # seconds between two renewals: several fit into the SECONDS that a lease lasts
TIMEOUT = 10.0  # seconds
RUN_FILE = ".run"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy, as all other requests


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who takes servers. Example: Tenant(run="5c1f0b...", holder="node7, process 4711, /data/runs/a")"""

    run: str
    holder: str  # for people

    @classmethod
    def of_run(cls, folder: Path) -> Tenant:
        """The run in `folder`, the same one however often it is resumed. A copy of the folder is another run."""
        file = folder / RUN_FILE
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(uuid4().hex)
        place = str(folder.resolve())
        run = hashlib.sha256(f"{file.read_text()} {place}".encode()).hexdigest()[:32]
        return cls(run, _holder(place))

    @classmethod
    def once(cls, what: str) -> Tenant:
        """Something that ends with this process."""
        return cls(uuid4().hex, _holder(what))


def _holder(what: str) -> str:
    return f"{socket.gethostname()}, process {os.getpid()}, {what}"


@contextmanager
def leased(urls: Sequence[str], tenant: Tenant, optional: bool = False) -> Iterator[None]:
    """Hold the servers at `urls`.

    Raises AttachedError if one belongs to another run, or, unless that is `optional`, has no lease to give.
    """
    ended = threading.Event()

    def keep(url: str) -> None:
        while not ended.wait(BEAT):
            # A server that is lost, or another run's by now, says so itself to whoever asks it.
            with suppress(AttachedError):
                take(url, tenant, optional)

    held: dict[str, threading.Thread] = {}
    try:
        for url in urls:
            take(url, tenant, optional)
            held[url] = threading.Thread(target=keep, args=(url,), name=f"lease of {url}", daemon=True)
            held[url].start()
        yield
    finally:
        ended.set()
        for url, thread in held.items():
            thread.join(TIMEOUT)  # what is renewed after it was given back would be held for nobody
            with suppress(AttachedError):
                _call("DELETE", url, None, {RUN_HEADER: tenant.run})


def take(url: str, tenant: Tenant, optional: bool = False) -> None:
    """Take or renew the lease of one server. Raises AttachedError as `leased`."""
    status, answer = _call("POST", url, {"run": tenant.run, "holder": tenant.holder})
    if status == NOT_YOURS:
        raise AttachedError(taken(url, answer))
    if status != 200 and not optional:
        raise AttachedError(
            f"{url} has no {LEASE} ({status}), which says whose run it belongs to; {START}; a server of your own "
            "command takes --middleware grpo.rollout.vllm.guard.Guard"
        )


def _call(method: str, url: str, body: dict[str, str] | None, more: dict[str, str] | None = None) -> tuple[int, bytes]:
    """Status and content of the answer."""
    fields = {"Content-Type": "application/json", **headers(), **(more or {})}
    data = json.dumps(body).encode() if body is not None else None
    try:
        request = urllib.request.Request(f"{url.rstrip('/')}{LEASE}", data, fields, method=method)
        with _DIRECT.open(request, timeout=TIMEOUT) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 401:
                raise AttachedError(refused(url)) from error
            return error.code, error.read()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise AttachedError(f"{url} does not answer about its lease ({error!r}); {START}") from error
