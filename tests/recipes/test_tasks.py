"""Tasks: rows from generators and files, splits that do not overlap, and gold answers that pass the verifier."""

import json

import pytest

from recipes.schema.recipe import TaskSettings
from recipes.tasks import TaskError, load_task
from tests.sandboxes import needs


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def sums(n, start=0):
    return [{"q": f"{i} + 1", "a": str(i + 1)} for i in range(start, start + n)]


def custom(path, **more):
    return TaskSettings(dataset=str(path), columns={"question": "q", "answer": "a"}, **more)


def ids(rows):
    return [row.id for row in rows]


@pytest.mark.parametrize("name", ["arithmetic", "countdown"])
def test_a_generated_task_has_disjoint_splits_and_every_gold_answer_passes(name):
    task = load_task(TaskSettings(name=name, problems=100, config={"levels": [1, 2]}), eval_problems=20, seed=0)
    assert (len(task.train), len(task.held_out), task.rejected) == (100, 20, [])
    assert not {row.question for row in task.train} & {row.question for row in task.held_out}
    row = task.held_out[0]
    assert task.grade(f"<answer>{row.answer}</answer>", row.columns).outcome == "correct"


def test_where_answers_are_read_is_the_tasks_and_does_not_reject_gold_answers():
    task = load_task(TaskSettings(name="arithmetic", problems=8, read=["boxed"]), 4, 0)
    row = task.train[0]
    assert task.rejected == []
    assert task.grade(f"\\boxed{{{row.answer}}}", {"answer": row.answer}).outcome == "correct"
    assert task.grade(f"<answer>{row.answer}</answer>", {"answer": row.answer}).outcome == "no_answer"


def test_the_tasks_seed_goes_before_the_runs():
    def first(task_seed, run_seed):
        settings = TaskSettings(name="arithmetic", problems=5, seed=task_seed)
        return ids(load_task(settings, 5, run_seed).held_out)

    assert first(None, 1) == first(1, 2) != first(None, 2)


def test_gsm8k_reads_the_number_after_the_hashes(tmp_path):
    row = {"question": "How much is 48 / 2?", "answer": "48/2 = <<48/2=24>>24\n#### 1,024"}
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    write(folder / "train.jsonl", [row])
    write(folder / "test.jsonl", [{**row, "question": "And 5?"}])
    for path in (tmp_path, folder):  # the folder of all data sets, or this one's
        task = load_task(TaskSettings(name="gsm8k", path=str(path)), 10, 0)
        assert (ids(task.train), ids(task.held_out)) == (["gsm8k/train/0"], ["gsm8k/test/0"])
        assert task.train[0].answer == "1,024"


def test_math_drops_copies_of_test_problems_repeats_and_unknown_levels(tmp_path):
    def problem(text, level="Level 2", solution=r"so \boxed{5}"):
        return {"problem": text, "level": level, "solution": solution}

    train = [
        problem("What is $2+3$?"),
        problem("What is $2 + 3$?"),
        problem("Find $x^2$."),
        problem("Odd", level="Level ?"),
        problem("Empty", solution=r"\boxed{}"),
        problem("Last"),
    ]
    write(tmp_path / "train.jsonl", train)
    write(tmp_path / "test.jsonl", [problem("Find  $x^2$."), problem("Unknown", level="Level ?")])
    task = load_task(TaskSettings(name="math", path=str(tmp_path)), 10, 0)
    assert ids(task.train) == ["math/train/0", "math/train/5"]
    assert ids(task.held_out) == ["math/test/0", "math/test/1"]
    assert dict(task.rejected) == {
        "math/train/1": "same question as math/train/0",
        "math/train/2": "same question as math/test/0",
        "math/train/3": "level is 'Level ?'",
        "math/train/4": "no answer in column 'solution'",
    }


def test_a_row_whose_gold_answer_does_not_pass_is_rejected_with_the_reason(tmp_path):
    rows = [*sums(30), {"q": "broken", "a": "</answer>"}]
    task = load_task(custom(write(tmp_path / "d.jsonl", rows), seed=0), 10, 0)
    ((row, reason),) = task.rejected
    assert row == "d.jsonl/train/30"
    assert "gold answer '</answer>' does not pass the verifier" in reason


def test_when_every_row_is_rejected_the_error_shows_some(tmp_path):
    rows = [{"q": f"{i}?", "a": None} for i in range(5)]
    with pytest.raises(TaskError, match=r"no training problem is left.*no answer in column 'a'"):
        load_task(custom(write(tmp_path / "d.jsonl", rows)), 10, 0)


def test_a_single_split_holds_out_a_tenth_by_the_questions_alone(tmp_path):
    path = write(tmp_path / "d.jsonl", sums(50))
    held_out = {row.question for row in load_task(custom(path), 100, seed=0).held_out}
    assert len(held_out) == 5
    write(tmp_path / "d.jsonl", list(reversed(sums(50))))
    again = load_task(custom(path), 100, seed=9)
    assert {row.question for row in again.held_out} == held_out
    assert not held_out & {row.question for row in again.train}
    assert len(again.train) == 45


def test_held_out_problems_and_limited_train_problems_are_a_seeded_sample_not_the_first(tmp_path):
    write(tmp_path / "train.jsonl", sums(100))
    write(tmp_path / "test.jsonl", sums(100, start=100))
    tasks = [load_task(custom(tmp_path, problems=10), 10, seed) for seed in (0, 0, 1)]
    assert ids(tasks[0].held_out) == ids(tasks[1].held_out) != ids(tasks[2].held_out)
    assert ids(tasks[0].train) == ids(tasks[1].train) != ids(tasks[2].train)
    assert [len(tasks[0].train), len(tasks[0].held_out)] == [10, 10]
    assert tasks[0].held_out[-1].id != f"{tmp_path.name}/test/9"


def test_parquet_and_jsonl_give_the_same_rows(tmp_path):
    from datasets import Dataset

    Dataset.from_list(sums(20)).to_parquet(str(tmp_path / "d.parquet"))
    path = write(tmp_path / "d.jsonl", sums(20))
    both = [load_task(custom(file), 5, 0) for file in (path, tmp_path / "d.parquet")]
    assert both[0].train[0].columns == both[1].train[0].columns == {"q": "0 + 1", "a": "1"}
    assert [row.answer for row in both[0].held_out] == [row.answer for row in both[1].held_out]


def test_splits_of_a_folder_are_its_files_and_may_have_other_columns(tmp_path):
    write(tmp_path / "easy.jsonl", sums(12))
    write(tmp_path / "hard.jsonl", [{**row, "extra": 1} for row in sums(4, start=50)])
    task = load_task(custom(tmp_path, split="easy", held_out_split="hard"), 10, 0)
    assert (len(task.train), len(task.held_out)) == (12, 4)


def test_a_missing_column_lists_the_columns_and_the_nearest(tmp_path):
    path = write(tmp_path / "d.jsonl", [{"question": "1 + 1", "answer": "2"}])
    settings = TaskSettings(dataset=path, columns={"question": "questoin", "answer": "answer"})
    with pytest.raises(TaskError) as caught:
        load_task(settings, 10, 0)
    assert str(caught.value) == (
        "task.columns: d.jsonl has no column 'questoin' (did you mean 'question'?); it has question, answer"
    )


def test_the_countdown_verifier_needs_its_columns(tmp_path):
    path = write(tmp_path / "d.jsonl", sums(3))
    with pytest.raises(TaskError, match=r"countdown needs the columns numbers and target; d.jsonl has q, a"):
        load_task(custom(path, verifier="countdown"), 10, 0)


def test_a_missing_split_lists_the_splits_and_the_nearest(tmp_path):
    write(tmp_path / "train.jsonl", sums(3))
    with pytest.raises(TaskError, match=r"no split 'trian' \(did you mean 'train'\?\); it has train"):
        load_task(custom(tmp_path, split="trian"), 10, 0)


@pytest.mark.parametrize("make", [False, True])
def test_a_folder_that_is_missing_or_empty_is_told_apart(make, tmp_path):
    folder = tmp_path / "data"
    if make:
        folder.mkdir()
    expected = "holds no such file" if make else "does not exist"
    with pytest.raises(TaskError, match=f"{folder} {expected}; expected a .jsonl or .parquet file"):
        load_task(TaskSettings(name="math", path=str(folder)), 10, 0)


def test_a_broken_file_is_named(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text("{not json\n")
    with pytest.raises(TaskError, match=r"d.jsonl cannot be loaded"):
        load_task(custom(path), 10, 0)


def test_a_hub_out_of_reach_says_to_give_a_local_folder(monkeypatch):
    import datasets

    def unreachable(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(TaskError, match=r"openai/gsm8k cannot be loaded: Couldn't reach .* --set task.path=DIR"):
        load_task(TaskSettings(name="gsm8k"), 10, 0)


def test_a_generators_own_complaint_is_a_task_error():
    with pytest.raises(TaskError, match=r"task.config: arithmetic: unknown key 'level'.*'levels'"):
        load_task(TaskSettings(name="arithmetic", config={"level": [1]}), 10, 0)


@pytest.mark.parametrize("gold", ["C", 2, "Rome"])
def test_the_gold_of_a_multiple_choice_row_may_be_a_letter_an_index_or_a_text(tmp_path, gold):
    choices = ["Paris", "Oslo", "Rome"]
    path = write(tmp_path / "d.jsonl", [{"q": f"Italy, {i}?", "a": gold, "choices": choices} for i in range(20)])
    task = load_task(custom(path, verifier="multiple_choice"), 5, 0)
    row = task.train[0]
    assert task.rejected == []
    for answer, outcome in [("C", "correct"), ("(C) Rome", "correct"), ("Rome", "correct"), ("B", "wrong")]:
        assert task.grade(f"<answer>{answer}</answer>", {**row.columns, "answer": row.answer}).outcome == outcome


def test_a_task_of_numbers_refuses_golds_that_are_none(tmp_path):
    path = write(tmp_path / "d.jsonl", [*sums(20), {"q": "who?", "a": "Evelyn"}])
    task = load_task(custom(path, verifier="number"), 5, 0)
    assert [row for row, _ in task.rejected] == ["d.jsonl/train/20"]


# -- Programs ---------------------------------------------------------------------------------------------------------


def programs(path, rows, **task):
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"question": "q", **task.pop("columns", {})}
    settings = TaskSettings(dataset=str(path / "rows.jsonl"), columns=columns, verifier="code", **task)
    return load_task(settings, 10, seed=0)


@needs()
def test_a_task_of_programs_keeps_the_rows_whose_own_program_passes(tmp_path):
    tests = ["assert double(2) == 4", "assert double(3) == 6"]
    rows = [{"q": f"Double {i}.", "right": "def double(x): return 2 * x", "test_list": tests} for i in range(4)]
    rows += [
        {"q": "Halve.", "right": "def double(x): return 4", "test_list": tests},
        {"q": "?", "right": "", "test_list": []},
    ]
    task = programs(tmp_path, rows, columns={"answer": "right"})
    assert len(task.train) + len(task.held_out) == 4
    assert {reason.partition(":")[0] for _, reason in task.rejected} >= {"no tests"}
    assert any("failed: test 2: not true: assert double(3) == 6" in reason for _, reason in task.rejected)
    row = task.train[0]
    assert row.question.endswith("these tests:\nassert double(2) == 4")
    assert task.grade("```\ndef double(x): return x + x\n```", row.columns).outcome == "correct"
    assert task.grade("```\ndef double(x): return 4\n```", row.columns).outcome == "wrong"


@needs()
def test_tests_may_be_in_a_column_of_another_name_and_a_generated_problem_prints_its_answer(tmp_path):
    rows = [{"q": f"Print {i}.", "mine": [{"input": "", "output": str(i)}]} for i in range(3)]
    task = programs(tmp_path, rows, columns={"tests": "mine"})
    assert task.grade(f"```\nprint({task.train[0].question[6:-1]})\n```", task.train[0].columns).outcome == "correct"
    settings = TaskSettings(name="arithmetic", verifier="code", code={"language": "expression"}, problems=4)
    generated = load_task(settings, 4, seed=0)
    row = generated.train[0]
    for written, outcome in ((row.question, "correct"), (row.answer, "correct"), ("-1", "wrong"), ("1 +", "wrong")):
        assert generated.grade(f"<answer>{written}</answer>", row.columns).outcome == outcome


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"columns": {"question": "q"}, "dataset": "x.jsonl"}, "columns.answer: required, unless verifier: code"),
        (
            {"columns": {"question": "q", "answer": "a", "tests": "t"}, "dataset": "x"},
            "columns.tests: only verifier: code",
        ),
        ({"name": "arithmetic", "verifier": "code", "code": {"lang": "c"}}, r"code\.lang: unknown key.* language"),
        ({"name": "math", "code": {"language": "c"}}, "code: only verifier: code takes settings, got verifier: math"),
        ({"name": "arithmetic", "verifier": "code", "read": ["tag"]}, "read: a program is the last fenced block"),
    ],
)  # fmt: skip
def test_settings_of_programs_without_programs_are_refused(task, message):
    with pytest.raises(ValueError, match=message):
        TaskSettings(**task)
