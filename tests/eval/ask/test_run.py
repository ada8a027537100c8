"""Benchmarks against a fake server: everything is asked for once, what fails is counted apart, and resuming goes on."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eval.ask.client import EvalClient, Served
from eval.ask.run import Work, grade_generations, prepare, results, run_benchmarks
from eval.grade import GenerationsError, graded
from eval.problems.benchmarks import benchmark, load_problems
from eval.stats.stats import summary
from eval.store import Store, read_generations
from grpo.rollout.engine import ServerLostError
from grpo.types import Prompt, Sampling
from tests.conftest import character_tokenizer
from tests.fakes import CLOSE, FakeOpenAI, asked, written

QUICK = (0.01, 0.01)


def arithmetic(n: int = 12, **changes: Any) -> Work:
    chosen = benchmark("arithmetic").override(**changes)
    return prepare(chosen, load_problems(chosen, None, n).problems, None)


def solve(body: dict[str, Any]) -> str:
    """Right, wrong and no answer in turn of the problem's first digit."""
    question = asked(body).partition("\n")[0]
    kind = int(question[0]) % 3
    return ["I do not know", rf"so \boxed{{{eval(question)}}}", r"\boxed{-1}"][kind]


def run(
    folder: Path,
    work: Work | list[Work],
    script: Any = None,
    in_flight: int = 4,
    context: int | None = None,
    **fake: Any,
) -> FakeOpenAI:
    async def go() -> FakeOpenAI:
        async with FakeOpenAI(script, write=solve) as server:
            with Store(folder) as store:
                async with EvalClient([server.url], Served("fake", None, ""), 30, None, QUICK) as client:
                    works = work if isinstance(work, list) else [work]
                    await run_benchmarks(works, client, store, in_flight, context)
            return server

    return asyncio.run(go())


def test_every_completion_is_asked_for_once_and_stored_with_its_grade(tmp_path: Path) -> None:
    work = arithmetic(samples=3, temperature=1.0)
    server = run(tmp_path, work)
    assert len(server.bodies) == 36
    rows = read_generations(tmp_path)
    assert sorted((row.problem_id, row.sample) for row in rows) == sorted(
        (problem.id, sample) for problem in work.problems for sample in range(3)
    )
    for row in rows:
        kind = int(row.question[0]) % 3
        assert row.outcome == ["no_answer", "correct", "wrong"][kind]
        assert row.value == [0.0, 1.0, 0.0][kind]
        assert row.extracted == [None, row.answer, "-1"][kind]
        assert row.completion == solve({"prompt": row.question})
        assert (row.tokens, row.finish_reason, row.failure) == (len(row.completion), "stop", None)
        assert row.level is not None


def test_the_protocol_is_what_is_sent(tmp_path: Path) -> None:
    work = arithmetic(1, samples=1, temperature=0.6, max_tokens=77, system="Be brief.")
    (body,) = run(tmp_path, work).bodies
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.6, 1.0, 77)
    question = f"{work.problems[0].question}\n{work.benchmark.protocol.instruction}"
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]


def test_with_a_tokenizer_the_prompt_is_token_ids_and_what_the_template_opened_is_graded_with_the_rest(
    tmp_path: Path,
) -> None:
    chosen = benchmark("arithmetic").override(template="{question}=<think>", instruction="")
    problems = load_problems(chosen, None, 3).problems
    tokenizer = character_tokenizer()
    work = prepare(chosen, problems, tokenizer)
    server = run(tmp_path, work, lambda body, k: written("hm</think><answer>1</answer>"))
    texts = {tokenizer.decode(body["prompt"]) for body in server.bodies}
    assert texts == {f"{problem.question}=<think>" for problem in problems}
    assert {row.completion for row in read_generations(tmp_path)} == {"<think>hm</think><answer>1</answer>"}


def test_the_server_is_kept_as_full_as_asked_and_no_fuller(tmp_path: Path) -> None:
    server = run(tmp_path, arithmetic(40), lambda body, k: 0.02, in_flight=4)
    assert server.most_at_once == 4


def test_a_slow_completion_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async def go() -> None:
        others = asyncio.Event()  # set when all the others are answered: in waves, that would never be
        async with FakeOpenAI(write=solve) as server:

            async def complete(prompt: Prompt, sampling: Sampling) -> Any:
                if prompt.id == work.problems[0].id:
                    await asyncio.wait_for(others.wait(), 240)
                answer = await client.complete(prompt, sampling)
                if len(server.answered) == 39:
                    others.set()
                return answer

            with Store(tmp_path) as store:
                async with EvalClient([server.url], Served("fake", None, ""), 30, None, QUICK) as client:
                    asker: Any = SimpleNamespace(complete=complete)
                    await run_benchmarks([work], asker, store, in_flight=4)

    work = arithmetic(40)
    asyncio.run(go())
    assert len(read_generations(tmp_path)) == 40


def test_what_fails_is_stored_under_its_cause_and_is_in_no_rate(tmp_path: Path) -> None:
    work = arithmetic(12)
    broken = {problem.question: i for i, problem in enumerate(work.problems[:4])}
    answers = [500, CLOSE, {"choices": []}, {"choices": [{}]}]

    def script(body: dict[str, Any], k: int) -> Any:
        number = broken.get(asked(body).partition("\n")[0])
        return None if number is None else answers[number]

    run(tmp_path, work, script)
    rows = read_generations(tmp_path)
    assert len(rows) == 12
    found = results([work], rows, "fake")["arithmetic"]
    assert found["failed"] == {"server": 2, "missing": 1, "malformed": 1}
    assert sum(found["outcomes"].values()) == found["n_generations"] == 8
    right = [row.value for row in rows if row.failure is None]
    assert found["accuracy"]["value"] == pytest.approx(sum(right) / 8)


def test_cut_and_empty_completions_are_completions(tmp_path: Path) -> None:
    run(tmp_path, arithmetic(2), lambda body, k: written(["", "so it goes on"][k], True, ["stop", "length"][k]))
    rows = {row.completion: row for row in read_generations(tmp_path)}
    assert {row.outcome for row in rows.values()} == {"no_answer"}
    found = results([arithmetic(2)], list(rows.values()), "fake")["arithmetic"]
    assert found["no_answer"]["value"] == 1.0
    assert found["truncated"]["value"] == 0.5
    assert found["failed"] == {}


def test_a_prompt_that_leaves_no_room_is_counted_under_its_own_cause_and_never_sent(tmp_path: Path) -> None:
    work = arithmetic(2)
    short = Prompt(id=work.problems[0].id, text="", token_ids=tuple(range(90)), answer="")
    long = Prompt(id=work.problems[1].id, text="", token_ids=tuple(range(100)), answer="")
    script: Any = lambda body, k: written("<answer>1</answer>")  # noqa: E731
    server = run(tmp_path, Work(work.benchmark, work.problems, [short, long]), script, context=100)
    (body,) = server.bodies
    assert body["max_tokens"] == 10  # what the prompt leaves of the context
    assert [row.max_tokens for row in read_generations(tmp_path) if row.failure is None] == [10]
    (row,) = [row for row in read_generations(tmp_path) if row.failure]
    assert (row.problem_id, row.failure) == (long.id, "too_long")
    assert row.reason == "a prompt of 100 tokens; the model takes 100, answer included"


def test_a_limit_that_the_server_shortened_by_itself_is_recorded_as_what_was_written(tmp_path: Path) -> None:
    answers = [written("x" * 40, True, "length"), written("x" * 2048, True, "length"), written("x" * 40, True, "stop")]
    run(tmp_path, arithmetic(3), lambda body, k: answers[k], 1)
    rows = {(row.finish_reason, row.tokens): row.max_tokens for row in read_generations(tmp_path)}
    assert rows == {("length", 40): 40, ("length", 2048): 2048, ("stop", 40): 2048}
    assert results([arithmetic(3)], read_generations(tmp_path), "fake")["arithmetic"]["shortened"] == 1


def test_tokens_are_the_servers_count_or_unknown_and_never_characters(tmp_path: Path) -> None:
    answers = [written(r"\boxed{11}", True) | {"usage": usage} for usage in ({"completion_tokens": 4}, None, {})]
    run(tmp_path, arithmetic(3), lambda body, k: answers[k], in_flight=1)
    assert sorted(row.tokens or 0 for row in read_generations(tmp_path)) == [0, 0, 4]
    assert [row.tokens for row in read_generations(tmp_path)].count(None) == 2


def test_a_server_that_is_lost_leaves_what_is_stored_and_resuming_asks_for_the_rest_alone(tmp_path: Path) -> None:
    work = arithmetic(40)
    with pytest.raises(ServerLostError):
        run(tmp_path, work, lambda body, k: None if k < 7 else 500, in_flight=1)
    rows = read_generations(tmp_path)
    came = [row.question for row in rows if row.failure is None]
    assert len(came) == 7
    found = results([work], rows, "fake")["arithmetic"]
    assert found["n_generations"] == 7
    assert found["failed"] == {"server": 33}
    server = run(tmp_path, work)
    assert len(server.bodies) == 33
    assert not {asked(body).partition("\n")[0] for body in server.bodies} & set(came)
    uninterrupted = tmp_path / "whole"
    run(uninterrupted, work)
    assert read_generations(tmp_path) == read_generations(uninterrupted)


def test_what_came_when_it_is_cancelled_is_graded_and_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every completion came, none is graded: the cancellation strikes while all are in the hands of the verifier."""
    entered, go_on = threading.Semaphore(0), threading.Event()

    def grading(*args: Any) -> Any:
        entered.release()
        assert go_on.wait(60)
        return graded(*args)

    async def go() -> None:
        async with FakeOpenAI(write=solve) as server:
            with Store(tmp_path) as store:
                async with EvalClient([server.url], Served("fake", None, ""), 30, None, QUICK) as client:
                    running = asyncio.create_task(run_benchmarks([arithmetic(3)], client, store, in_flight=3))
                    for _ in range(3):
                        assert await asyncio.to_thread(entered.acquire, timeout=240)
                    running.cancel()
                    await asyncio.sleep(0)
                    go_on.set()
                    with pytest.raises(asyncio.CancelledError):
                        await running

    monkeypatch.setattr("eval.ask.run.graded", grading)
    asyncio.run(go())
    assert [row.outcome is not None for row in read_generations(tmp_path)] == [True] * 3


def test_benchmarks_run_in_their_order_and_share_the_store(tmp_path: Path) -> None:
    chosen = benchmark("countdown").override(max_tokens=5)
    countdown = prepare(chosen, load_problems(chosen, None, 3).problems, None)
    server = run(tmp_path, [arithmetic(3), countdown], lambda body, k: written(r"\boxed{1}", True))
    found = results([arithmetic(3), countdown], read_generations(tmp_path), "m")
    assert list(found) == ["arithmetic", "countdown"]
    assert [body["max_tokens"] for body in server.bodies] == [2048] * 3 + [5] * 3
    assert found["countdown"]["protocol_hash"] == chosen.protocol.hash()
    assert found["countdown"]["protocol"]["max_tokens"] == 5
    assert found["countdown"]["model"] == "m"
    assert json.loads(json.dumps(found)) == found


# -- Someone else's generations ---------------------------------------------------------------------------------------


def row(**changes: Any) -> dict[str, Any]:
    return {"completion": r"so \boxed{18}", "answer": "18", "problem_id": "p1"} | changes


def test_rows_of_another_program_are_graded_and_numbered() -> None:
    rows = [
        row(),
        row(completion="<answer>17</answer>", tokens=5, finish_reason="length", level=3, subject="Algebra"),
        row(problem_id="p2", completion="?"),
        row(problem_id="p2", completion=None),
    ]
    graded = grade_generations(rows)
    assert [(one.problem_id, one.sample, one.outcome) for one in graded] == [
        ("p1", 0, "correct"), ("p1", 1, "wrong"), ("p2", 0, "no_answer"), ("p2", 1, None),
    ]  # fmt: skip
    assert (graded[1].tokens, graded[1].finish_reason, graded[1].level) == (5, "length", "3")
    assert graded[3].failure == "missing"
    found = summary(graded, samples=2)
    assert found["accuracy"]["value"] == 0.25  # p1: 1/2; p2: 0/1
    assert found["failed"] == {"missing": 1}


def test_rows_of_a_built_in_benchmark_are_graded_by_its_rules() -> None:
    needed = {"numbers": [3, 5, 7], "target": 15, "answer": "3+5+7"}
    (one,) = grade_generations([row(benchmark="countdown", completion="<answer>7+5+3</answer>", **needed)])
    assert (one.benchmark, one.outcome) == ("countdown", "correct")


def test_a_row_without_a_column_and_a_sample_that_is_there_twice_are_named() -> None:
    with pytest.raises(GenerationsError, match="row 2: no 'answer'; expected completion, answer, problem_id; it has"):
        grade_generations([row(), {"completion": "", "problem_id": "p"}])
    with pytest.raises(GenerationsError, match="row 3: sample 1 of p1 is in row 2 already"):
        grade_generations([row(), row(), row(sample=1)])
