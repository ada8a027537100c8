"""A user's environment may do what it likes: it is its own episode that fails."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from grpo.environments.environment import EnvironmentRefusedError, EpisodeFailedError
from grpo.environments.host import EnvironmentHost
from grpo.environments.settings import EnvironmentSettings
from grpo.types import Episode

CODE = """
import asyncio, os, random, subprocess, time
from pathlib import Path

made = []

class Game:
    def __init__(self, note=""):
        made.append(1)
        self.said = []
        self.note = note

    def start(self, row):
        self.number = random.random()
        return [{"role": "system", "content": "s"}, row["question"]]

    def step(self, reply):
        self.said.append(reply)
        if reply == "raise":
            return 1 / 0
        if reply == "hang":
            while True:
                pass
        if reply == "sleep":
            subprocess.Popen(["sleep", "1000"])
            time.sleep(1000)
        if reply == "exit":
            os._exit(3)
        if reply == "leave":
            raise SystemExit(3)
        if reply == "number":
            return 7
        if reply == "assistant":
            return {"role": "assistant", "content": "I"}
        if reply == "unsent":
            return [lambda: 0]
        if reply == "end":
            return None
        return f"{len(made)} {self.said} {self.number:.3f} {random.random():.3f}"

    async def score(self, episode):
        await asyncio.sleep(0)
        return {"nan": float("nan"), "text": "good", "none": None}.get(episode.replies[-1], episode.turns / 2)

class NoStep:
    def start(self, row):
        return "a"

class Fails:
    def __init__(self):
        raise RuntimeError("no data here")

class Rows(Game):
    def rows(self, split, n):
        return [{"question": f"{split} {k}"} for k in range(n)] if n else []
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "game.py").write_text(CODE)
    return tmp_path / "game.py"


@pytest.fixture
def host(file: Path) -> Iterator[EnvironmentHost]:
    with closing(EnvironmentHost(EnvironmentSettings(name=f"{file}:Game", call_timeout=4.0))) as host:
        yield host


def play(host: EnvironmentHost, *replies: str, row_id: str = "r/1", seed: str = "0") -> list:
    """What the environment said to each reply; the score at the end."""

    async def one() -> list:
        async with host.session() as session:
            found = [await session.start({"id": row_id, "question": "q"}, seed)]
            found += [await session.step(reply) for reply in replies]
            messages = tuple({"role": "assistant", "content": reply} for reply in replies)
            return [*found, await session.score(Episode(messages, "done"))]

    return asyncio.run(one())


def test_each_episode_has_the_environment_to_itself_and_it_is_made_once(host):
    first, second = play(host, "a", "b"), play(host, "c", "end")
    assert first[0] == ({"role": "system", "content": "s"}, {"role": "user", "content": "q"})
    assert first[2][0]["content"].startswith("1 ['a', 'b']")
    assert second[1][0]["content"].startswith("1 ['c']")
    assert second[2] == ()
    assert (second[3].value, second[3].outcome) == (1.0, "correct")
    assert (play(host, "a")[-1].value, play(host, "a")[-1].outcome) == (0.5, "wrong")
    assert play(host, "none")[-1] is None


def test_what_start_draws_is_the_rows_and_what_comes_later_the_episodes(host):
    def drawn(**of: str) -> list[str]:
        return play(host, "a", **of)[1][0]["content"].split()[-2:]

    one, again, other, row = drawn(), drawn(), drawn(seed="1"), drawn(row_id="r/2")
    assert one == again
    assert (one[0] == other[0], one[1] == other[1]) == (True, False)
    assert row[0] != one[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reply", "cause", "reason"),
    [
        ("raise", "environment_error", r"ZeroDivisionError: division by zero, while in step .*game.py:20\)"),
        ("hang", "environment_timeout", r"step took more than 4 seconds \(task.environment.call_timeout\)"),
        ("sleep", "environment_timeout", "step took more than 4 seconds"),
        ("exit", "environment_error", "step ended the episode's process"),
        ("leave", "environment_error", "SystemExit"),
        ("number", "environment_error", "step returned int 7, expected text"),
        ("assistant", "environment_error", "role 'assistant'"),
        ("unsent", "environment_error", "returned the message function"),
        ("nan", "environment_error", "score returned float nan, expected a finite number"),
        ("text", "environment_error", "score returned str 'good'"),
    ],
)
def test_whatever_goes_wrong_is_that_episodes_failure_and_the_others_go_on(host, reply, cause, reason):
    async def both() -> tuple:
        async with host.session() as other:
            await other.start({"id": "o", "question": "q"}, "0")
            try:
                await asyncio.to_thread(play, host, reply)
            except EpisodeFailedError as error:
                return error, await other.step("still here")
        return None, None

    error, said = asyncio.run(both())
    assert error.cause == cause
    assert re.search(reason, error.reason), error.reason
    assert "still here" in said[0]["content"]


@pytest.mark.slow
def test_nothing_is_left_of_an_episode_or_of_the_host(host):
    with pytest.raises(EpisodeFailedError):
        play(host, "sleep")
    play(host, "a")
    host.close()
    left = [p.cmdline() for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    assert not [line for line in left if "sleep" in line or "grpo.environments.serve" in " ".join(line)]


def test_a_host_that_was_killed_is_started_again(host):
    for process in psutil.Process(host._process.pid).children(recursive=True):
        process.kill()
    host._process.wait(20)
    assert play(host, "end")[-1].value == 0.5


@pytest.mark.parametrize(
    ("name", "config", "problem"),
    [
        ("gues_number", {}, "has this name.*guess_number"),
        ("guess_number", {"high": 0}, "expected low < high"),
        ("guess_number", {"hihg": 5}, "unexpected keyword argument 'hihg'"),
        ("game.py:Gam", {}, "has no function 'Gam'"),
        ("nothing.py:Game", {}, "there is no file"),
        ("game.py:NoStep", {}, "NoStep has no method step"),
        ("game.py:Fails", {}, "RuntimeError: no data here"),
        ("game.py:Game", {"volume": 3}, "unexpected keyword argument 'volume'"),
    ],
)
def test_an_environment_that_cannot_be_made_is_refused_at_once(file, name, config, problem):
    with pytest.raises(EnvironmentRefusedError, match=problem):
        EnvironmentHost(EnvironmentSettings(name=name, config=config), file.parent)


def test_an_environment_may_bring_its_own_rows(file):
    with closing(EnvironmentHost(EnvironmentSettings(name=f"{file}:Rows"))) as host:
        assert host.rows("train", 2) == [{"question": "train 0"}, {"question": "train 1"}]
        with pytest.raises(EnvironmentRefusedError, match=r"rows\('train', 0\) gave \[\], expected dictionaries"):
            host.rows("train", 0)
        assert play(host, "end")[-1].value == 0.5


@pytest.mark.slow
def test_a_hundred_episodes_at_a_time_are_kept_apart(file):
    async def many(host: EnvironmentHost) -> int:
        async def one(k: int) -> str:
            async with host.session() as session:
                await session.start({"id": str(k), "question": "q"}, "0")
                return (await session.step(str(k)))[0]["content"]

        said = await asyncio.gather(*map(one, range(100)))
        return sum(f"['{k}']" in text for k, text in enumerate(said))

    with closing(EnvironmentHost(EnvironmentSettings(name=f"{file}:Game"))) as host:
        assert asyncio.run(many(host)) == 100
