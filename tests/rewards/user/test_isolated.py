"""A reward in a process of its own: what hangs, dies or uses signals there does not reach the caller."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from rewards import Reward, RewardError, RewardSettings, RewardSum, Score
from tests.processes import ended

pytestmark = pytest.mark.slow

MINE = r'''
import os
import signal
import subprocess
import time
from math_verify import parse, verify

def pid(completions):
    return [os.getpid() for _ in completions]

def hangs_on_loop(completions, **columns):
    while "loop" in completions:
        pass
    return [1.0 for _ in completions]

def dies_on_die(completions):
    if "die" in completions:
        os._exit(3)
    return [1.0 for _ in completions]

def says_so(completions, file):
    with open(file[0] + ".partial", "w") as out:
        out.write(str(os.getpid()))
    os.rename(file[0] + ".partial", file[0])
    return [1.0 for _ in completions]

def hangs_and_says_so(completions, file):
    says_so(completions, file)
    while True:
        pass

def starts(completions, file, then):
    """A subprocess, a fork, and a daemon of a session of its own, whose parent is gone; none ends by itself."""
    pids = [subprocess.Popen(["sleep", "600"]).pid]
    pids.append(os.fork() or wait())
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if (daemon := os.fork()) == 0:
            wait()
        os.write(write, str(daemon).encode())
        os._exit(0)
    pids.append(int(os.read(read, 20)))
    with open(file[0] + ".partial", "w") as out:
        out.write(" ".join(map(str, [os.getpid(), *pids])))
    os.rename(file[0] + ".partial", file[0])
    exec(then[0])
    return [1.0 for _ in completions]

def wait():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)

def raises(completions):
    raise KeyError("x")

def exits(completions):
    raise SystemExit(0)

def reports(completions, log_extra, log_metric, trainer_state):
    log_extra("length", [len(text) for text in completions])
    log_metric("step", trainer_state)
    return [0.0 for _ in completions]

def open_r1_like(completions, solution, **kwargs):
    """In the manner of open-r1's accuracy_reward: Math-Verify with its own timeouts, which are signals."""
    contents = [completion[0]["content"] for completion in completions]
    rewards = []
    for content, sol in zip(contents, solution):
        gold = parse(sol, extraction_mode="first_match")
        if not gold:
            rewards.append(None)
            continue
        answer = parse(content, extraction_mode="first_match", parsing_timeout=1)
        rewards.append(float(verify(gold, answer, timeout_seconds=1)))
    return rewards
'''


@pytest.fixture
def isolated(tmp_path: Path):
    """isolated("function", timeout=...) of the file above; closed at the end."""
    (tmp_path / "mine.py").write_text(MINE)
    made = []

    def make(name: str, **settings) -> RewardSum:
        made.append(RewardSum([RewardSettings(name=f"mine.py:{name}", **settings)], tmp_path, isolate=True))
        return made[-1]

    yield make
    for rewards in made:
        rewards.close()


def kill_caller_when_there_is(file: Path, name: str, columns: dict[str, list[str]]) -> None:
    """Kill -9 a process that scores with a reward of the folder's mine.py, once the reward has written the file."""
    code = (
        "import time; from rewards import RewardSettings, RewardSum\n"
        f"rewards = RewardSum([RewardSettings(name='mine.py:{name}')], isolate=True)\n"
        f"rewards.score(['a'], {columns}); time.sleep(600)"
    )
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=file.parent, env={**os.environ, "PYTHONPATH": path}
    ) as caller:
        while not file.exists():
            time.sleep(0.01)
        caller.kill()


def in_a_thread(function, *arguments):
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function, *arguments).result()


def test_it_runs_in_one_other_process_that_lives_on_and_ends_with_close(isolated) -> None:
    rewards = isolated("pid")
    first, second = (int(rewards.score(["a"], {})[0].parts["pid"]) for _ in range(2))
    assert first == second != os.getpid()
    rewards.close()
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_a_reward_with_signals_works_in_a_thread_only_when_isolated(isolated, tmp_path: Path) -> None:
    rewards = isolated("open_r1_like", completions="messages")
    columns = {"solution": ["$42$", "$42$", "no number", "$1$"]}
    texts = [r"\boxed{42}", r"\boxed{41}", r"\boxed{42}", r"\boxed{(10^{10})!}"]  # the last one never ends by itself
    assert [r.value for r in in_a_thread(rewards.score, texts, columns)] == [1.0, 0.0, None, 0.0]
    here = RewardSum([RewardSettings(name="mine.py:open_r1_like", completions="messages")], tmp_path)
    with pytest.raises(RewardError, match="doesn't support threaded environment"):
        in_a_thread(here.score, texts, columns)


def test_one_that_hangs_times_out_and_the_next_call_is_answered(isolated) -> None:
    rewards = isolated("hangs_on_loop", timeout=3)
    score = Score(None, None, "timeout", "reward 'mine.py:hangs_on_loop' took more than 3 seconds")
    assert rewards.score(["loop", "b"], {}) == [Reward(None, {"hangs_on_loop": None}, score)] * 2
    assert rewards.score(["a"], {})[0].value == 1.0


def test_one_that_dies_is_an_error_and_the_next_call_is_answered(isolated) -> None:
    rewards = isolated("dies_on_die")
    (reward,) = rewards.score(["die"], {})
    score = Score(None, None, "error", "reward 'mine.py:dies_on_die': its process ended with code 3")
    assert reward == Reward(None, {"dies_on_die": None}, score)
    assert rewards.score(["a"], {})[0].value == 1.0


@pytest.mark.parametrize(("name", "message"), [("raises", "KeyError: 'x'"), ("exits", "SystemExit: 0")])
def test_what_it_raises_is_the_same_error_as_without_a_process(
    isolated, tmp_path: Path, name: str, message: str
) -> None:
    here = RewardSum([RewardSettings(name=f"mine.py:{name}")], tmp_path)
    with pytest.raises(RewardError, match=message) as expected:
        here.score(["a"], {})
    with pytest.raises(RewardError) as raised:
        isolated(name).score(["a"], {})
    assert str(raised.value) == str(expected.value)
    assert raised.value.problem == expected.value.problem == "raises"


def test_one_that_cannot_be_loaded_is_refused_when_it_is_made(isolated) -> None:
    with pytest.raises(RewardError, match=r"has no function 'rases' \(did you mean 'raises'"):
        isolated("rases")


def test_what_it_logs_comes_back(isolated) -> None:
    metrics = []
    (reward,) = isolated("reports").score(["abc"], {}, 7, lambda *metric: metrics.append(metric))
    assert reward.extra == {"reports/length": 3}
    assert metrics == [("step", 7.0)]


def test_close_frees_a_thread_that_waits_for_one_that_hangs(isolated, tmp_path: Path) -> None:
    rewards = isolated("hangs_and_says_so")
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(rewards.score, ["a"], {"file": [str(tmp_path / "pid")]})
        while not (tmp_path / "pid").exists():
            time.sleep(0.01)
        rewards.close()
        assert waiting.result()[0].score.reason.endswith("ended with code 143")
    with pytest.raises(RewardError, match="was closed"):
        rewards.score(["a"], {"file": [""]})


@pytest.mark.parametrize(
    ("then", "outcome"),
    [
        ("pass", None),
        ("time.sleep(600)", "timeout"),
        ("while True: pass", "timeout"),
        ("os._exit(0)", "error"),
        ("os.kill(0, signal.SIGKILL)", "error"),  # the whole process group
    ],
)
def test_what_a_reward_started_ends_with_its_worker(isolated, tmp_path: Path, then: str, outcome: str | None) -> None:
    rewards = isolated("starts", timeout=3)
    (reward,) = rewards.score(["a"], {"file": [str(tmp_path / "pids")], "then": [then]})
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 4
    if outcome is None:
        assert reward.value == 1.0
        assert all(psutil.pid_exists(pid) for pid in pids)
        rewards.close()
    else:
        assert reward.score.outcome == outcome
    assert [pid for pid in pids if not ended(pid)] == []


@pytest.mark.parametrize("then", ["pass", "while True: pass"])
def test_what_a_reward_started_ends_when_the_run_is_killed(tmp_path: Path, then: str) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    kill_caller_when_there_is(tmp_path / "pids", "starts", {"file": ["pids"], "then": [then]})
    assert [pid for pid in (tmp_path / "pids").read_text().split() if not ended(int(pid))] == []


def test_a_worker_whose_guard_is_killed_ends(isolated, tmp_path: Path) -> None:
    rewards = isolated("pid")
    (reward,) = rewards.score(["a"], {})
    psutil.Process(int(reward.parts["pid"])).parent().kill()
    assert ended(int(reward.parts["pid"]))
    assert rewards.score(["a"], {})[0].value != reward.value


@pytest.mark.parametrize("doing", ["says_so", "hangs_and_says_so"])
def test_nothing_is_left_when_the_caller_is_killed(tmp_path: Path, doing: str) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    kill_caller_when_there_is(tmp_path / "pid", doing, {"file": ["pid"]})
    assert ended(int((tmp_path / "pid").read_text()))
