"""`zero eval` and `zero compare`: exit codes, messages, what is written, and that a kill at any moment loses nothing.

The server is a fake; the real one is in test_eval_vllm.py.
"""

from __future__ import annotations

import dataclasses
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from eval.ask import client as client_module
from eval.store import LINES, PARQUET, read_generations
from recipes.command.main import main
from tests import forked
from tests.fakes import FakeOpenAI, asked, serving, written

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "RETRY_DELAYS", (0.01, 0.01))


def zero(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert "Traceback" not in result.output
    return result


def solve(body: dict[str, Any]) -> str:
    """Of arithmetic: right, wrong and no answer in turn of the problem's first digit. Of countdown: no answer."""
    question = asked(body).partition("\n")[0]
    kind = int(question[0]) % 3 if question[0].isdigit() else 0
    return "I do not know" if kind == 0 else rf"so \boxed{{{eval(question) if kind == 1 else -1}}}"


def arithmetic(server: FakeOpenAI, output: Path, *more: object) -> Result:
    return zero("eval", "--base-url", server.url, "--benchmark", "arithmetic", "--limit", 30, "--output", output, *more)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The folder of an evaluation that ended."""
    with serving(FakeOpenAI(write=solve)) as server:
        assert arithmetic(server, tmp_path / "finished").exit_code == 0
    return tmp_path / "finished"


def test_an_evaluation_writes_results_generations_and_a_report_and_prints_the_table(tmp_path: Path) -> None:
    with serving(FakeOpenAI(write=solve)) as server:
        result = arithmetic(server, tmp_path / "out", "--benchmark", "countdown")
    assert result.exit_code == 0
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"evaluation.json", PARQUET, "results.json", "report.html"}
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(found) == ["arithmetic", "countdown"]
    entry = found["arithmetic"]
    assert (entry["n_problems"], entry["n_samples"], entry["model"], entry["failed"]) == (30, 1, "fake", {})
    assert len(entry["protocol_hash"]) == 12
    rows = [row for row in read_generations(tmp_path / "out") if row.benchmark == "arithmetic"]
    assert entry["accuracy"]["value"] == pytest.approx(sum(row.value or 0 for row in rows) / 30)
    value, low, high = (f"{entry['accuracy'][key]:.1%}" for key in ("value", "low", "high"))
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("arithmetic   ")]
    assert line.split()[1:6] == ["30", "1", value, f"[{low},", f"{high}]"]
    assert line.endswith(entry["protocol_hash"])
    assert "arithmetic 15/30" in result.stdout


def test_a_folder_as_the_model_renders_the_prompts_of_a_server_that_runs_already(tmp_path: Path) -> None:
    with serving(FakeOpenAI(lambda body, k: written("<answer>1</answer>"))) as server:
        template = ("--template", "{question}=<think>", "--model", "tiny")
        assert arithmetic(server, tmp_path / "out", *template).exit_code == 0
    assert {body["model"] for body in server.bodies} == {"fake"}
    assert all(isinstance(body["prompt"][0], int) for body in server.bodies)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["arithmetic"]["model"] == "tiny"


def test_what_the_command_line_changes_is_in_the_protocol_and_its_hash(tmp_path: Path, finished: Path) -> None:
    more = ("--samples", 2, "--temperature", 0.7, "--max-tokens", 50, "--seed", 1)
    with serving(FakeOpenAI(write=solve)) as server:
        result = arithmetic(server, tmp_path / "out", *more)
    entry = json.loads((tmp_path / "out" / "results.json").read_text())["arithmetic"]
    protocol = entry["protocol"]
    assert (protocol["samples"], protocol["temperature"], protocol["max_tokens"]) == (2, 0.7, 50)
    assert protocol["data"]["seed"] == 1
    assert entry["protocol_hash"] != json.loads((finished / "results.json").read_text())["arithmetic"]["protocol_hash"]
    assert {(body["temperature"], body["max_tokens"]) for body in server.bodies} == {(0.7, 50)}
    assert len(server.bodies) == 60
    assert "pass@2" in result.stdout
    assert "maj@2" in result.stdout


# -- What fails -------------------------------------------------------------------------------------------------------


def test_completions_that_failed_are_counted_apart_and_said_and_asked_for_again_by_resume(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with serving(FakeOpenAI(lambda body, k: 500 if asked(body)[0] in "19" else None, write=solve)) as server:
        result = arithmetic(server, output)
        n_failed = json.loads((output / "results.json").read_text())["arithmetic"]["failed"]["server"]
        assert result.exit_code == 0
        assert 0 < n_failed < 12
        assert (
            f"arithmetic: {n_failed} of 30 completions failed ({n_failed} server); they are in no rate" in result.stdout
        )
        assert "answered 500: because" in result.stdout
    with serving(FakeOpenAI(write=solve)) as server:
        assert arithmetic(server, output, "--resume").exit_code == 0
    assert len(server.bodies) == n_failed
    entry = json.loads((output / "results.json").read_text())["arithmetic"]
    assert (entry["failed"], entry["n_generations"]) == ({}, 30)


def test_a_server_that_is_lost_ends_the_evaluation_with_what_came_and_says_what_is_missing(
    tmp_path: Path, finished: Path
) -> None:
    output = tmp_path / "out"
    with serving(FakeOpenAI(lambda body, k: None if k < 5 else 500, write=solve)) as server:
        server.healthy = False
        result = arithmetic(server, output, "--concurrency", 1)
    assert result.exit_code == 1
    assert "arithmetic: 25 of 30 completions failed (25 server)" in result.stdout
    assert "failed: the servers were lost before everything was asked for" in result.stdout
    assert f"the same command with --output {output} --resume asks for the rest" in result.stdout
    assert json.loads((output / "results.json").read_text())["arithmetic"]["n_generations"] == 5
    with serving(FakeOpenAI(write=solve)) as server:
        assert arithmetic(server, output, "--resume").exit_code == 0
    assert len(server.bodies) == 25
    assert read_generations(output) == read_generations(finished)
    assert (output / "results.json").read_text() == (finished / "results.json").read_text()


def test_benchmarks_that_were_never_reached_are_missing_as_a_whole(tmp_path: Path) -> None:
    with serving(FakeOpenAI(lambda body, k: None if k < 5 else 500, write=solve)) as server:
        server.healthy = False
        result = arithmetic(server, tmp_path / "out", "--concurrency", 1, "--benchmark", "countdown")
    assert result.exit_code == 1
    assert "countdown: 30 of 30 completions failed (30 server)" in result.stdout
    entry = json.loads((tmp_path / "out" / "results.json").read_text())["countdown"]
    assert (entry["accuracy"], entry["n_generations"], entry["failed"]) == (None, 0, {"server": 30})


def test_less_room_in_the_context_than_the_protocol_asks_for_is_said(tmp_path: Path) -> None:
    with serving(FakeOpenAI(write=solve, model={"max_model_len": 500, "owned_by": "vllm"})) as server:
        result = arithmetic(server, tmp_path / "out")
    assert "arithmetic: 30 of 30 prompts leave less than max_tokens (2048) of the 500 tokens" in result.stdout
    assert "arithmetic: 30 of 30 completions had less than max_tokens (2,048): prompt and" in result.stdout
    # As the server counts the prompts' tokens: a word each. Characters would leave less.
    assert {body["max_tokens"] for body in server.bodies} == {500 - len(asked(body).split()) for body in server.bodies}
    entry = json.loads((tmp_path / "out" / "results.json").read_text())["arithmetic"]
    assert entry["shortened"] == 30
    assert "30 of 30 completions had less than max_tokens (2,048)" in (tmp_path / "out" / "report.html").read_text()


def test_completions_that_had_fewer_tokens_are_not_compared_with_full_ones(tmp_path: Path, finished: Path) -> None:
    with serving(FakeOpenAI(write=solve, model={"max_model_len": 500, "owned_by": "vllm"})) as server:
        arithmetic(server, tmp_path / "out")
    result = zero("compare", finished, tmp_path / "out")
    assert result.exit_code == 2
    assert "arithmetic: 30 problems had other limits of tokens in A than in B" in result.stderr
    least = min(body["max_tokens"] for body in server.bodies)
    assert "2048 in A, 48" in result.stderr  # 500 less a dozen words
    assert f"with --max-tokens {least} or less" in result.stderr
    assert zero("compare", finished, tmp_path / "out", "--any-protocol").exit_code == 0


def test_any_server_that_counts_is_asked_for_what_its_prompts_leave(tmp_path: Path) -> None:
    with serving(FakeOpenAI(write=solve, model={"max_model_len": 500}, tokenize="llama.cpp")) as server:
        arithmetic(server, tmp_path / "out")
    assert {body["max_tokens"] for body in server.bodies} == {498 - len(asked(body)) for body in server.bodies}


def test_a_server_with_a_limit_that_does_not_count_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with serving(FakeOpenAI(write=solve, model={"max_model_len": 500}, tokenize="none")) as server:
        result = arithmetic(server, tmp_path / "out")
    assert result.exit_code == 2
    assert "takes 500 tokens of prompt and completion, and counts no prompts" in result.stderr
    assert "give --model FOLDER" in result.stderr
    assert not server.bodies
    assert not (tmp_path / "out").exists()


def test_a_server_that_says_no_limit_is_asked_for_the_whole_one(tmp_path: Path) -> None:
    with serving(FakeOpenAI(write=solve, tokenize="none")) as server:
        result = arithmetic(server, tmp_path / "out")
    assert {body["max_tokens"] for body in server.bodies} == {2048}
    assert "less than max_tokens" not in result.stdout


def test_no_completion_at_all_is_a_failed_evaluation(tmp_path: Path) -> None:
    with serving(FakeOpenAI(lambda body, k: 400)) as server:
        result = arithmetic(server, tmp_path / "out")
    assert result.exit_code == 1
    assert "failed: no completion came of arithmetic" in result.stdout
    assert "refused a request (400): because" in result.stdout


def test_a_server_that_does_not_answer_is_exit_code_1_and_nothing_is_written(tmp_path: Path) -> None:
    result = zero("eval", "--base-url", "http://127.0.0.1:9", "--benchmark", "arithmetic", "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "failed: http://127.0.0.1:9 does not answer" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_message_and_what_is_stored_stays(tmp_path: Path, finished: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "evaluation.json").write_bytes((finished / "evaluation.json").read_bytes())
    (output / LINES).symlink_to("/dev/full")
    with serving(FakeOpenAI(write=solve)) as server:
        result = arithmetic(server, output, "--resume")
    assert result.exit_code == 1
    assert result.stderr.strip() == (
        f"failed: [Errno 28] cannot write {output / LINES}: No space left on device; "
        "free some space there, or choose another --output"
    )


def test_a_disk_that_fills_while_the_results_are_written_loses_nothing(tmp_path: Path, finished: Path) -> None:
    output = tmp_path / "out"
    for name in ("results.json", "report.html", PARQUET):
        output.mkdir(exist_ok=True)
        (full := output / f".{name}.partial").symlink_to("/dev/full")
        with serving(FakeOpenAI(write=solve)) as server:
            result = arithmetic(server, output, "--resume")
        assert result.exit_code == 1, name
        assert f"cannot write {output / name}: " in result.stderr
        assert "No space left on device" in result.stderr
        assert not full.is_symlink()
        assert len(read_generations(output)) == 30
    with serving(FakeOpenAI()) as server:
        assert arithmetic(server, output, "--resume").exit_code == 0
    assert server.bodies == []
    assert read_generations(output) == read_generations(finished)
    assert (output / "results.json").read_text() == (finished / "results.json").read_text()


def test_damaged_lines_are_passed_over_and_said_and_their_problems_are_asked_again(
    tmp_path: Path, finished: Path
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "evaluation.json").write_bytes((finished / "evaluation.json").read_bytes())
    rows = [json.dumps(dataclasses.asdict(row)) + "\n" for row in read_generations(finished)]
    rows[3], rows[7], rows[11] = rows[3][5:], '{"benchmark": 3}\n', "\n"
    (output / LINES).write_text("".join(rows) + rows[12] + rows[13][:50])  # one twice, and one torn
    with serving(FakeOpenAI(write=solve)) as server:
        result = arithmetic(server, output, "--resume")
    assert result.exit_code == 0
    assert "4 parts of what was stored cannot be read; what they held is asked for again" in result.stdout
    assert f"  {output / LINES}:4: not a generation of an evaluation" in result.stdout
    assert len(server.bodies) == 3
    assert read_generations(output) == read_generations(finished)
    assert (output / "results.json").read_text() == (finished / "results.json").read_text()


def test_killed_before_it_said_what_was_asked_it_can_begin_again(tmp_path: Path) -> None:
    (tmp_path / ".evaluation.json.partial").write_text('{"mod')
    with serving(FakeOpenAI(write=solve)) as server:
        assert arithmetic(server, tmp_path, "--resume").exit_code == 0


def test_what_was_asked_being_damaged_is_one_message(finished: Path) -> None:
    (finished / "evaluation.json").write_text('{"model": ')
    with serving(FakeOpenAI()) as server:
        result = arithmetic(server, finished, "--resume")
    assert result.exit_code == 2
    assert f"--resume: {finished / 'evaluation.json'} is damaged" in result.stderr


# -- Bad input --------------------------------------------------------------------------------------------------------


def model_folder(folder: Path, **config: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "tiny"], "--benchmark is missing: give gsm8k"),
        (["--benchmark", "arithmetic"], "--model is missing: give a model's folder"),
        (["--model", "tiny", "--benchmark", "gsm9k"], "unknown benchmark 'gsm9k' (did you mean 'gsm8k'?)"),
        (["--model", "tiny", "--benchmark", "mine.yaml"], "mine.yaml: there is no such file"),
        (["--model", "tiny", "--benchmark", "gsm8k", "--data-dir", "absent"], "--data-dir absent: there is no such"),
        (["--model", "no/such/model", "--benchmark", "arithmetic"], "--model no/such/model is not a folder"),
        (["--model", "tests", "--benchmark", "arithmetic"], "--model tests has no config.json"),
        (
            ["--model", "tiny", "--benchmark", "arithmetic", "--benchmark", "arithmetic"],
            "--benchmark arithmetic: given twice",
        ),
        (["--model", "tiny", "--benchmark", "arithmetic", "--samples", "4"], "4 greedy completions would all be the"),
        (["--model", "tiny", "--benchmark", "arithmetic", "--template", "x"], "template: got 'x', expected chat"),
        (["--model", "tiny", "--benchmark", "arithmetic", "--resume"], "--resume: no --output is given"),
        (["--generations", "absent.jsonl"], "--generations absent.jsonl cannot be read"),
        (["--generations", "a.jsonl", "--model", "tiny"], "--model: has no meaning with --generations"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    result = zero("eval", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"model_type": "bert", "architectures": ["BertModel"]},
            "is BertModel (bert), not a causal or masked language model",
        ),
        (
            {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
            "is T5ForConditionalGeneration (t5), not a causal or masked language model",
        ),
        ({"architectures": ["X"]}, "cannot be loaded"),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "cannot be loaded"),  # no tokenizer
    ],
)
def test_a_model_that_cannot_write_text_is_refused(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    folder = model_folder(tmp_path / "model", **config)
    result = zero("eval", "--model", folder, "--benchmark", "arithmetic", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert f"--model {folder} {said}" in result.stderr
    assert not (tmp_path / "out").exists()


def test_wrong_columns_are_named_with_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "problems.jsonl").write_text('{"prompt": "1+1", "gold": "2"}\n')
    (tmp_path / "mine.yaml").write_text("dataset: problems.jsonl\ncolumns: {question: prompt, answer: goal}\n")
    result = zero("eval", "--model", "tiny", "--benchmark", tmp_path / "mine.yaml")
    assert result.exit_code == 2
    assert "no column 'goal' (did you mean 'gold'?)" in result.stderr


def test_a_model_that_the_server_does_not_have_is_refused(tmp_path: Path) -> None:
    with serving(FakeOpenAI()) as server:
        result = arithmetic(server, tmp_path / "out", "--model", "other")
    assert result.exit_code == 2
    assert "does not serve 'other'; it serves fake" in result.stderr


def test_an_output_that_holds_something_is_refused_without_resume(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with serving(FakeOpenAI()) as server:
        result = arithmetic(server, tmp_path)
        assert result.exit_code == 2
        assert f"--output {tmp_path} is not empty; add --resume" in result.stderr
        result = arithmetic(server, tmp_path, "--resume")
        assert result.exit_code == 2
        assert "has no evaluation.json" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--max-tokens", 99), "benchmarks.arithmetic.protocol.max_tokens is 2048 there, 99 here"),
        (("--limit", 20), "benchmarks.arithmetic.problems is 30 there, 20 here"),
        (("--model", "tiny", "--template", "chat"), "model is 'fake' there, 'tiny' here"),
        (("--benchmark", "countdown"), "benchmarks.countdown.problems is None there, 30 here"),
    ],
)
def test_resuming_another_evaluation_is_refused_with_what_differs(
    finished: Path, more: tuple[object, ...], said: str
) -> None:
    with serving(FakeOpenAI()) as server:
        result = arithmetic(server, finished, "--resume", *more)
    assert result.exit_code == 2
    assert said in result.stderr
    assert server.bodies == []


def test_resuming_a_finished_evaluation_asks_for_nothing(finished: Path) -> None:
    before = (finished / "results.json").read_text()
    with serving(FakeOpenAI()) as server:
        assert arithmetic(server, finished, "--resume").exit_code == 0
    assert server.bodies == []
    assert (finished / "results.json").read_text() == before


# -- Killed -----------------------------------------------------------------------------------------------------------


def evaluation(server: FakeOpenAI, output: Path, *more: str) -> forked.Popen:
    line = [sys.executable, "-c", "from recipes.command.main import main; main()", "eval", "--base-url", server.url]
    line += ["--benchmark", "arithmetic", "--limit", "150", "--concurrency", "8", "--output", str(output), *more]
    return forked.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL)


def wait_for(condition: Any, process: forked.Popen) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.001)


def test_killed_five_times_and_resumed_it_ends_as_if_it_had_not_been_and_asks_for_nothing_twice(
    tmp_path: Path, finished: Path
) -> None:
    moments = sorted(random.Random(4).sample(range(1, 120), 5))  # completions written by then
    output, stored = tmp_path / "out", set[str]()
    with serving(FakeOpenAI(lambda body, k: 0.01 + 0.04 * (k % 7 == 0), write=solve)) as server:
        for moment in moments:
            process = evaluation(server, output, "--resume")
            wait_for(lambda m=moment: len(server.answered) >= m, process)
            process.send_signal(signal.SIGKILL)
            process.wait()
            stored = {row.question for row in read_generations(output)}
            n_before = len(server.bodies)
            assert len(stored) <= len(server.answered) <= len(stored) + 16 * 5
        assert evaluation(server, output, "--resume").wait(300) == 0
        again = {asked(body).partition("\n")[0] for body in server.bodies[n_before:]}
        assert again.isdisjoint(stored)
        assert len(again) == 150 - len(stored)
        whole = tmp_path / "whole"
        assert evaluation(server, whole).wait(300) == 0
    assert len(read_generations(output)) == 150
    assert read_generations(output) == read_generations(whole)
    assert (output / "results.json").read_text() == (whole / "results.json").read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_is_an_exit_code_and_leaves_what_a_resumed_evaluation_goes_on_with(
    number: int, code: int, tmp_path: Path
) -> None:
    with serving(FakeOpenAI(lambda body, k: 0.05, write=solve)) as server:
        process = evaluation(server, tmp_path / "out")
        wait_for(lambda: len(server.answered) >= 20, process)
        process.send_signal(number)
        assert process.wait(300) == code
        n_stored = len(read_generations(tmp_path / "out"))
        n_before = len(server.bodies)
        assert evaluation(server, tmp_path / "out", "--resume").wait(300) == 0
    assert 0 < n_stored < 150
    assert len(server.bodies) - n_before == 150 - n_stored


# -- Without a model --------------------------------------------------------------------------------------------------


def test_generations_of_another_program_are_graded_and_written_as_an_evaluation(tmp_path: Path) -> None:
    rows = [
        {"completion": r"\boxed{18}", "answer": "18", "problem_id": "p1", "level": 1},
        {"completion": r"\boxed{17}", "answer": "18", "problem_id": "p1", "level": 1},
        {"completion": "<answer>4</answer>", "answer": "4.0", "problem_id": "p2", "level": 2},
        {"completion": "no idea", "answer": "4.0", "problem_id": "p2", "level": 2},
    ]
    file, output = tmp_path / "mine.jsonl", tmp_path / "out"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = zero("eval", "--generations", file, "--output", output)
    assert result.exit_code == 0
    entry = json.loads((output / "results.json").read_text())["generations"]
    assert (entry["accuracy"]["value"], entry["n_problems"], entry["n_samples"]) == (0.5, 2, 2)
    assert entry["outcomes"] == {"correct": 2, "wrong": 1, "no_answer": 1}
    assert entry["pass_at_k"]["2"]["value"] == 1.0
    assert (entry["model"], entry["protocol_hash"]) == (None, None)
    assert entry["protocol"]["verifier"] == "math"
    assert {path.name for path in output.iterdir()} == {"evaluation.json", PARQUET, "results.json", "report.html"}
    assert Counter(row.outcome for row in read_generations(output)) == entry["outcomes"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty; expected one JSON object a line, with completion, answer, problem_id"),
        ("{}\n", "row 1: no 'completion'"),
        ("{\n", ":1: not JSON"),
        ("[1]\n", ":1: expected an object with completion"),
    ],
)
def test_generations_that_cannot_be_graded_are_refused(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(content)
    result = zero("eval", "--generations", file, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert said in result.stderr


def test_compare_says_what_differs_between_two_folders(tmp_path: Path, finished: Path) -> None:
    with serving(FakeOpenAI(lambda body, k: written(r"\boxed{-1}", True))) as server:
        assert arithmetic(server, tmp_path / "wrong").exit_code == 0
    result = zero("compare", finished, tmp_path / "wrong")
    assert result.exit_code == 0
    assert "arithmetic" in result.stdout
    assert "A is better" in result.stdout


def test_compare_refuses_what_is_no_evaluation(tmp_path: Path, finished: Path) -> None:
    result = zero("compare", finished, tmp_path)
    assert result.exit_code == 2
    assert "results.json does not exist" in result.stderr


@pytest.mark.parametrize("command", ["eval", "compare"])
def test_each_command_has_help(command: str) -> None:
    result = zero(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output
