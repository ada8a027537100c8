"""40 hostile programs among 400 honest ones: each ends as it must, each honest one rightly, and nothing is left.

The hostile ones (tests/cases/hostile_programs.jsonl) print ESCAPED where they saw, wrote or reached what they must not.
In their sources @secret is a file of the machine, @path the same without quotes, @port that of a server on 127.0.0.1,
@name an abstract socket of the machine, @folder where one would leave a file.
"""

from __future__ import annotations

import json
import os
import random
import socket
import tempfile
import threading
import uuid
from pathlib import Path

import psutil
import pytest

from rewards.sandbox import Limits, Program, run_all
from tests.sandboxes import needs

CASES = Path(__file__).parents[2] / "cases"
pytestmark = [pytest.mark.slow, needs("bubblewrap")]

HONEST = 400
HOSTILE = [json.loads(line) for line in (CASES / "hostile_programs.jsonl").open(encoding="utf-8")]
LIMITS = Limits(cpu_seconds=2, wall_seconds=20, memory_mib=512, disk_mib=17, output_kib=256)
C = '#include <stdio.h>\nint main() {{ int a, b; scanf("%d %d", &a, &b); printf("%d\\n", a {0} b); }}'


def honest() -> list[tuple[Program, str, str]]:
    """(program, input, output), a few of them compiled."""
    draw, rows = random.Random(0), []
    for i in range(HONEST):
        a, b = draw.randrange(1, 1000), draw.randrange(1, 1000)
        sources = [
            ("a, b = map(int, input().split())\nprint(a + b)", f"{a} {b}", str(a + b)),
            ("print(input()[::-1])", f"{a}abc", f"{a}abc"[::-1]),
            ("import sys\nprint(sum(map(int, sys.stdin)))", f"{a}\n{b}\n", str(a + b)),
            (f"open('note', 'w').write('{a}')\nprint(open('note').read())", "", str(a)),
            (f"import subprocess\nprint(subprocess.check_output(['echo', '{a}'], text=True), end='')", "", str(a)),
        ]
        source, given, output = draw.choice(sources)
        program = Program(source)
        if i % 100 == 0:
            program, given, output = Program(C.format("*"), "c"), f"{a} {b}", str(a * b)
        rows.append((program, given, output))
    return rows


def sandboxes() -> set[psutil.Process]:
    """Those of this test, by the size of their disks, and whatever this process started."""
    size = str(LIMITS.disk_mib * 2**20)
    found = [process for process in psutil.process_iter(["cmdline"]) if size in (process.info["cmdline"] or [])]
    return {*found, *psutil.Process().children(recursive=True)}


@pytest.fixture
def machine(tmp_path):
    """What programs must not see or reach, and the set of what reached it."""
    secret = Path(tempfile.mkdtemp(dir=Path.home())) / "secret"
    secret.write_text("a secret of the machine\n")
    os.chmod(secret, 0o644)
    folder = tmp_path / "outside"
    folder.mkdir(mode=0o777)
    name, reached = f"zero-{uuid.uuid4()}", []
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0{name}")
        abstract.listen()
        for one in (server, abstract):
            threading.Thread(target=_accept, args=(one, reached), daemon=True).start()
        yield {"secret": str(secret), "port": server.getsockname()[1], "name": name, "folder": str(folder)}, reached
        for one in (server, abstract):
            one.shutdown(socket.SHUT_RDWR)
    secret.unlink()
    secret.parent.rmdir()


def _accept(server, reached):
    while True:
        try:
            server.accept()[0].close()
        except OSError:
            return
        reached.append(server)


def filled(source, places):
    for name in ("secret", "folder"):
        source = source.replace(f"@{name}", repr(places[name]))
    return (
        source.replace("@path", places["secret"]).replace("@port", str(places["port"])).replace("@name", places["name"])
    )


@pytest.mark.parametrize("honest_ones", [HONEST, 10])
def test_every_program_ends_as_it_must_and_nothing_is_left(machine, monkeypatch, honest_ones):
    """All in a host's sandboxes; once more with a few honest ones, each in a sandbox that is started by itself."""
    if honest_ones < HONEST:
        monkeypatch.setattr("rewards.sandbox.start.host_of", lambda tool: None)
    places, reached = machine
    before = sandboxes()  # engines and servers that other tests of this process keep
    hostile = [filled(one["source"], places) for one in HOSTILE]
    jobs = [(program, given, ("ok",), output) for program, given, output in honest()[:honest_ones]]
    jobs += [
        (Program(source, one["language"]), "", one["ends"], None) for source, one in zip(hostile, HOSTILE, strict=True)
    ]
    names = [*(f"honest {i}" for i in range(honest_ones)), *(one["name"] for one in HOSTILE)]
    order = list(range(len(jobs)))
    random.Random(1).shuffle(order)

    done = dict(zip(order, run_all([jobs[i][:2] for i in order], LIMITS), strict=True))

    wrong = []
    for i, (_, _, ends, output) in enumerate(jobs):
        got = done[i]
        if got.outcome not in ends or "ESCAPED" in got.stdout or output not in (None, got.stdout.strip()):
            wrong.append((names[i], got.outcome, got.reason[:200], got.stdout[:100]))
    assert wrong == []
    assert reached == []
    assert os.listdir(places["folder"]) == []
    assert sandboxes() - before == set()
    assert len(HOSTILE) == 40
