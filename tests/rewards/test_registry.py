"""Rewards by entry point, of packages that are really installed: a folder with their metadata, on sys.path."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from recipes.schema.recipe import Recipe
from rewards import Reward, RewardError, RewardSettings, RewardSum, load_reward
from rewards.builtin.accuracy import accuracy
from rewards.registry import BUILT_IN, installed_rewards, reads_answers

PACKAGE = "def shout(completions, **columns):\n    return [float(text.isupper()) for text in completions]\n\nno = 1\n"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """install("package", "name = module:function") as pip would leave it."""

    def add(package: str, *lines: str, source: str = PACKAGE) -> None:
        (tmp_path / f"{package}.py").write_text(source)
        metadata = tmp_path / f"{package}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text("\n".join(["[zero.rewards]", *lines]) + "\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return add


def test_an_installed_reward_is_found_by_its_name(install) -> None:
    install("zt_loud", "loud = zt_loud:shout")
    assert [point.value for point in installed_rewards()["loud"]] == ["zt_loud:shout"]
    scored = RewardSum([RewardSettings(name="loud", weight=0.5)]).score(["AB", "ab"], {})
    assert scored == [Reward(0.5, {"loud": 1.0}), Reward(0.0, {"loud": 0.0})]


def test_the_process_of_an_isolated_reward_finds_it_too(install) -> None:
    install("zt_loud_alone", "loud = zt_loud_alone:shout")
    rewards = RewardSum([RewardSettings(name="loud")], isolate=True)
    assert rewards.score(["AB"], {}) == [Reward(1.0, {"loud": 1.0})]
    rewards.close()


def test_a_built_in_is_not_replaced_by_an_installed_package(install) -> None:
    install("zt_hijack", "accuracy = zt_hijack:shout")
    assert load_reward("accuracy") is accuracy
    assert load_reward("zt_hijack:shout")(["A"]) == [1.0]
    assert "accuracy" in installed_rewards()


def test_a_name_of_two_packages_is_refused_with_both(install) -> None:
    install("zt_one", "twice = zt_one:shout")
    install("zt_two", "twice = zt_two:shout")
    with pytest.raises(RewardError, match="several packages install it, zt_one:shout and zt_two:shout: give one"):
        load_reward("twice")


@pytest.mark.parametrize(
    ("line", "source", "message"),
    [
        (
            "x = zt_bad{n}:shout",
            "import no_such_module",
            "'x' raised ModuleNotFoundError: No module named 'no_such_mod",
        ),
        ("x = zt_bad{n}:missing", PACKAGE, "'x' raised AttributeError: .*missing"),
        ("x = zt_bad{n}:no", PACKAGE, r"'x': the entry point zt_bad2:no is no function, got 1"),
        (
            "shouting = zt_bad{n}:shout",
            PACKAGE,
            "'x': no built-in and no installed .* Give one of accuracy.* shouting, ",
        ),
    ],
)
def test_an_entry_point_that_cannot_be_used_says_why(install, request, line: str, source: str, message: str) -> None:
    n = request.node.callspec.indices["line"]  # a module is imported once in a process
    install(f"zt_bad{n}", line.format(n=n), source=source)
    with pytest.raises(RewardError, match=message):
        load_reward("x")


def test_the_nearest_name_may_be_an_installed_one(install) -> None:
    install("zt_near", "brevity = zt_near:shout")
    with pytest.raises(RewardError, match="did you mean 'brevity'"):
        load_reward("brevty")


def test_whether_a_reward_reads_answers_is_its_own_property() -> None:
    reading = {"accuracy", "cosine_length", "countdown", "multiple_choice", "number", "reasoning_gym"}
    assert {name for name in BUILT_IN if reads_answers(name)} == reading
    assert not reads_answers("my_rewards.py:f")


@pytest.mark.parametrize("name", sorted(set(BUILT_IN) - {"environment"}))  # which needs a task with one
def test_every_reward_that_reads_answers_must_read_them_where_the_evaluation_does(name: str) -> None:
    def recipe(**args: object) -> Recipe:
        task = {"name": "arithmetic", "read": ["boxed"]}
        return Recipe(model={"path": "m"}, task=task, rewards=[{"name": "format"}, {"name": name, "args": args}])

    recipe(read=["boxed"])
    if reads_answers(name):
        with pytest.raises(ValidationError, match=r"rewards\.1\.args\.read: got None, task\.read is \['boxed'\]"):
            recipe()
    else:
        recipe()
