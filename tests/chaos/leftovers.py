"""What a run left behind: processes, files in shared memory and in TMPDIR, half-written files."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil

from tests.chaos.enclosure import Enclosure, wait_until

GRACE = 30.0  # seconds after the end: a watcher needs 5 to stop a server, and the machine may be busy

CACHES = ("torchinductor_",)  # torch keeps there what the next run finds again, whatever it is told


def leftovers(enclosure: Enclosure, within: float = GRACE) -> list[str]:
    """Processes, and files in shared memory and TMPDIR, that are there still `within` seconds after a command ended."""
    wait_until(lambda: not enclosure.processes() and not _files(enclosure), within)
    alike = Counter(map(_described, enclosure.processes()))
    lines = [f"process {what}" + (f" ({count} of them)" if count > 1 else "") for what, count in alike.items()]
    return lines + [f"file {path.name} in {path.parent.name}" for path in _files(enclosure)]


def half_written(run_dir: Path) -> list[str]:
    """What a finished run must not have: one that was killed may leave it to the next attempt to take away."""
    found = [path for path in run_dir.rglob("*") if path.suffix in (".partial", ".tmp")]
    return [f"half-written {path.relative_to(run_dir)}" for path in found]


def _files(enclosure: Enclosure) -> list[Path]:
    temporary = (path for path in enclosure.tmp.iterdir() if not path.name.startswith(CACHES))
    return [*enclosure.shared_memory(), *temporary]


def _described(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        ports = [c.laddr.port for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        listens = f", listens on {ports}" if ports else ""
        return f"{process.name()}: {' '.join(process.cmdline())[:100]}{listens}"
    return "that ended meanwhile"
