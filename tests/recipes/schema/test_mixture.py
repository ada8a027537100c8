"""`tasks:` of a recipe: what it means, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes.schema.chain import load_chain
from recipes.schema.load import RecipeError, load_recipe, save_recipe

TASKS: dict[str, Any] = {
    "sums": {"name": "arithmetic", "share": 3, "template": "{question}="},
    "digits": {"name": "countdown", "template": "r1_zero", "problems": 64},
}
RECIPE: dict[str, Any] = {
    "model": {"path": "tiny"},
    "tasks": TASKS,
    "rewards": [
        {"name": "accuracy", "tasks": ["sums"]},
        {"name": "countdown", "tasks": ["digits"]},
        {"name": "format", "weight": 0.2},
    ],
}


def loaded(folder: Path, **changes: Any) -> Any:
    file = folder / "recipe.yaml"
    given = {key: value for key, value in (RECIPE | changes).items() if value is not None}
    file.write_text(yaml.safe_dump(given, sort_keys=False))
    return load_recipe(str(file))


def of_sums(**changes: Any) -> dict[str, Any]:
    sums = {key: value for key, value in (TASKS["sums"] | changes).items() if value is not None}
    return {"tasks": TASKS | {"sums": sums}}


def test_each_task_is_a_recipe_of_its_own_and_what_is_written_reads_back(tmp_path) -> None:
    recipe = loaded(tmp_path)
    assert [reward.name for reward in recipe.of_task("sums").rewards] == ["accuracy", "format"]
    assert recipe.of_task("digits").only_task.template == "r1_zero"
    assert {name: task.share for name, task in recipe.tasks.items()} == {"sums": 3, "digits": 1}
    save_recipe(recipe, tmp_path / "again.yaml")
    assert load_recipe(str(tmp_path / "again.yaml")) == recipe
    assert load_recipe(str(tmp_path / "again.yaml"), ["tasks.sums.share=0.5"]).tasks["sums"].share == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (of_sums(share=0), "recipe.yaml:6: tasks.sums.share: got 0, expected a number above 0"),
        (of_sums(share=-1), "tasks.sums.share: got -1, expected a number above 0"),
        (of_sums(share="half"), "tasks.sums.share: got 'half', expected a number"),
        (of_sums(template=None), "tasks.sums.template: required, but absent"),
        (of_sums(template="no place"), "tasks.sums.template: got 'no place', expected r1_zero, chat, or a text"),
        (of_sums(shere=1), "tasks.sums.shere: unknown key (did you mean 'share'?); allowed here: name, path"),
        (of_sums(name="arithmetics"), "(did you mean 'arithmetic'?)"),
        (of_sums(environment="guess_number"), "tasks.sums.environment: with several tasks each problem gets one reply"),
        (of_sums(problems=5), "tasks.sums.problems: got 5, expected at least 6, its share of rollout.prompts_per_step"),
        (of_sums(read=["boxed"]), "rewards.0.args.read: got None, tasks.sums.read is ['boxed']"),
        ({"tasks": {}}, "tasks: got {}, expected "),
        ({"tasks": {"a/b": TASKS["sums"]}, "rewards": ["accuracy"]}, "got the name 'a/b', expected letters"),
        ({"task": {"name": "arithmetic"}}, "tasks: task is given, too; keep one of them"),
        ({"tasks": None, "rewards": ["accuracy"]}, "task: required, but absent"),
        (
            {"rewards": [{"name": "accuracy", "tasks": ["sum"]}, "format"]},
            "rewards.0.tasks: no task 'sum' (did you mean 'sums'?); there are sums, digits",
        ),
        ({"rewards": [{"name": "accuracy", "tasks": ["sums"]}]}, "tasks.digits: no reward scores it; give one with"),
        ({"rewards": [{"name": "accuracy", "tasks": []}]}, "rewards.0.tasks: got [], expected a list of at least 1"),
        (
            {"tasks": {"sums": TASKS["sums"] | {"verifier": "none"}}, "rewards": ["format"]},
            "tasks: each has verifier: none, so nothing would be measured",
        ),
        (
            {"tasks": None, "task": {"name": "arithmetic", "verifier": "none"}, "rewards": ["format"]},
            "task.verifier: none is for one of several tasks (tasks)",
        ),
        ({"train": {"backend": "trl"}}, "tasks: train.backend: trl trains one task"),
        (
            {"tasks": None, "task": {"name": "arithmetic"}, "rewards": [{"name": "accuracy", "tasks": ["a"]}]},
            "rewards.0.tasks: got ['a'], but the run has one task",
        ),
    ],
)
def test_what_cannot_work_is_one_message_with_the_key(tmp_path, changes, message) -> None:
    with pytest.raises(RecipeError) as refused:
        loaded(tmp_path, **changes)
    assert message in str(refused.value)
    assert len(str(refused.value).split("\n")) == 1


def test_two_tasks_of_one_name_are_refused_with_both_places(tmp_path) -> None:
    task = "{name: arithmetic, template: '{question}'}"
    (tmp_path / "r.yaml").write_text(f"model: {{path: tiny}}\nrewards: [accuracy]\ntasks:\n  a: {task}\n  a: {task}\n")
    with pytest.raises(RecipeError, match=r"r.yaml:5: tasks.a: given twice, first in .*r.yaml:4; keep one"):
        load_recipe(str(tmp_path / "r.yaml"))


def test_files_of_tasks_are_looked_for_beside_the_recipe(tmp_path) -> None:
    (tmp_path / "mine.jsonl").write_text("{}")
    task = {"dataset": "mine.jsonl", "columns": {"question": "q", "answer": "a"}, "template": "{question}"}
    recipe = loaded(tmp_path, tasks=TASKS | {"mine": task})
    assert recipe.tasks["mine"].dataset == str(tmp_path / "mine.jsonl")


def test_a_stage_with_several_tasks_leaves_the_chains_one_task(tmp_path) -> None:
    stage = {"kind": "grpo", **{key: RECIPE[key] for key in ("tasks", "rewards")}}
    first = {"kind": "grpo", "rewards": ["accuracy"]}
    chain = {"model": {"path": "tiny"}, "task": {"name": "gsm8k"}, "stages": {"one": first, "all": stage}}
    file = tmp_path / "chain.yaml"
    file.write_text(yaml.safe_dump(chain, sort_keys=False))
    one, several = load_chain(str(file)).stages
    assert one.settings["task"] == {"name": "gsm8k"}
    assert "task" not in several.settings
    assert set(several.settings["tasks"]) == {"sums", "digits"}
    chain["tasks"] = chain.pop("task") and TASKS
    chain["stages"]["one"]["task"] = {"name": "gsm8k"}
    file.write_text(yaml.safe_dump(chain, sort_keys=False))
    assert "tasks" not in load_chain(str(file)).stages[0].settings
