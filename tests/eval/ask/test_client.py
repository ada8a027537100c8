"""The evaluation's client against a fake OpenAI-compatible server that fails in every way; a real one is in
test_eval_vllm.py."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from eval.ask import client as client_module
from eval.ask.client import Answer, EvalClient, Failed, Served, find_served
from grpo.rollout.engine import RolloutError, ServerLostError
from grpo.types import Prompt, Sampling
from tests.fakes import CLOSE, FakeOpenAI, written

GREEDY = Sampling(max_tokens=16, temperature=0.0)
IDS = Prompt(id="t/1", text="1+1=", token_ids=(5, 6, 7), answer="2")
TEXT = Prompt(id="t/1", text="1+1=", token_ids=(), answer="2")
CHAT = Prompt(id="t/1", text="", token_ids=(), answer="2", messages=({"role": "user", "content": "1+1?"},))
QUICK = (0.01, 0.01)
HANG = 60.0  # seconds, of which no test waits more than 1


def ask(
    script: Any = None,
    prompt: Prompt = IDS,
    times: int = 1,
    timeout: float = 30,
    owner: str = "nobody",
    sampling: Sampling = GREEDY,
    **fake: Any,
) -> tuple[list[Answer | Failed], FakeOpenAI]:
    async def run() -> tuple[list[Answer | Failed], FakeOpenAI]:
        served = Served("fake", None, owner)
        async with (
            FakeOpenAI(script, **fake) as server,
            EvalClient([server.url], served, timeout, None, QUICK) as client,
        ):
            return [await client.complete(prompt, sampling) for _ in range(times)], server

    return asyncio.run(run())


@pytest.mark.parametrize(("prompt", "sent"), [(IDS, [5, 6, 7]), (TEXT, "1+1=")])
def test_a_prompt_is_sent_as_its_token_ids_or_as_its_text_where_there_are_none(prompt: Prompt, sent: Any) -> None:
    answers, server = ask(prompt=prompt)
    assert answers == [Answer("<answer>42</answer>", tokens=19, finish_reason="stop")]
    assert server.bodies == [{"model": "fake", "max_tokens": 16, "temperature": 0.0, "top_p": 1.0, "prompt": sent}]


def test_a_conversation_without_token_ids_is_left_to_the_servers_template() -> None:
    answers, server = ask(prompt=CHAT)
    assert answers == [Answer("<answer>42</answer>", tokens=19, finish_reason="stop")]
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "1+1?"}]
    assert "prompt" not in server.bodies[0]


def counted(prompt: Prompt, **fake: Any) -> int | None:
    async def run() -> int | None:
        async with FakeOpenAI(**fake) as server:
            client = EvalClient([server.url], await find_served(server.url), 5, None, QUICK)
            async with client:
                return await client.count(prompt)

    return asyncio.run(run())


@pytest.mark.parametrize("prompt", [CHAT, TEXT])
@pytest.mark.parametrize(
    ("tokenize", "tokens"),
    [
        ("vllm", 1),  # a word is one
        ("llama.cpp", 4 + 2),  # a character is one, and its template adds two around a chat
        ("none", None),
    ],
)
def test_tokens_of_a_prompt_are_counted_by_whatever_server_counts(prompt: Prompt, tokenize: str, tokens: int) -> None:
    without_template = tokens == 6 and not prompt.messages
    assert counted(prompt, tokenize=tokenize) == (4 if without_template else tokens)


def test_a_text_is_counted_where_only_texts_are_as_by_sglang() -> None:
    assert counted(TEXT, tokenize="sglang") == 1
    assert counted(CHAT, tokenize="sglang") is None


def test_a_vllm_server_is_told_to_leave_the_models_own_sampling_defaults_out() -> None:
    _, server = ask(owner="vllm")
    assert server.bodies[0] | {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0} == server.bodies[0]
    _, server = ask(owner="vllm", sampling=Sampling(max_tokens=16, top_k=20))
    assert server.bodies[0]["top_k"] == 20


def first(n: int, what: Any) -> Callable[[dict[str, Any], int], Any]:
    """`what` for the first n requests, then the usual answer."""
    return lambda body, k: what if k < n else None


@pytest.mark.parametrize(
    "what", [500, 503, 429, CLOSE, HANG, "{not json", {"choices": []}, written("gave up", finish_reason="abort")]
)
def test_what_fails_and_then_works_is_asked_for_again(what: Any) -> None:
    (answer,), server = ask(first(2, what), timeout=1.0 if what == HANG else 30)
    assert answer == Answer("<answer>42</answer>", tokens=19, finish_reason="stop")
    assert len(server.bodies) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "cause", "reason", "attempts"),
    [
        (500, "server", "answered 500: because", 3),
        (CLOSE, "server", "does not answer", 3),
        (HANG, "timeout", "no answer within 1 s, 3 times", 3),
        (400, "refused", "refused a request (400): because", 1),
        ({"choices": []}, "missing", "no choices", 3),
        ({"error": "?"}, "malformed", "KeyError('choices')", 3),
        ({"choices": None}, "malformed", "TypeError", 3),
        ({"choices": [{}]}, "malformed", "KeyError('text')", 3),
        ({"choices": [{"text": None}]}, "malformed", "text is None", 3),
        ({"choices": ["42"]}, "malformed", "TypeError", 3),
        ([], "malformed", "TypeError", 3),
        ("<html>", "malformed", "<html>", 3),
        (written("gave up", finish_reason="abort"), "server", "gave the completion up", 3),
    ],
)
def test_what_keeps_failing_is_a_failure_under_its_cause(what: Any, cause: str, reason: str, attempts: int) -> None:
    (failed,), server = ask(
        lambda body, k: json.dumps(what) if what == [] else what, timeout=1.0 if what == HANG else 30
    )
    assert isinstance(failed, Failed)
    assert failed.cause == cause
    assert reason in failed.reason
    assert len(server.bodies) == attempts


def test_an_empty_text_and_a_message_without_content_are_answers() -> None:
    (answer,), _ = ask(lambda body, k: written(""))
    assert answer == Answer("", tokens=0, finish_reason="stop")
    nothing = {"choices": [{"message": {"content": None}, "finish_reason": "length"}]}
    (answer,), _ = ask(lambda body, k: nothing, prompt=CHAT)
    assert answer == Answer("", tokens=None, finish_reason="length")


def test_a_truncated_answer_says_so() -> None:
    (answer,), _ = ask(lambda body, k: written("so it is", finish_reason="length"))
    assert answer == Answer("so it is", tokens=8, finish_reason="length")


def test_half_a_surrogate_pair_does_not_reach_the_files() -> None:
    (answer,), _ = ask(lambda body, k: written("4\ud83d2"))
    assert isinstance(answer, Answer)
    assert answer.text == r"4\ud83d2"


def test_a_server_that_is_gone_ends_the_asking() -> None:
    async def run() -> None:
        async with FakeOpenAI() as server:
            pass
        async with EvalClient([server.url], Served("fake", None, ""), 5, None, QUICK) as client:
            await client.complete(IDS, GREEDY)

    with pytest.raises(ServerLostError, match="does not answer"):
        asyncio.run(run())


def test_a_server_whose_engine_is_dead_ends_the_asking() -> None:
    async def run() -> None:
        async with FakeOpenAI(lambda body, k: 500) as server:
            server.healthy = False
            async with EvalClient([server.url], Served("fake", None, ""), 5, None, QUICK) as client:
                await client.complete(IDS, GREEDY)

    with pytest.raises(ServerLostError, match="answered 500"):
        asyncio.run(run())


@pytest.mark.parametrize("what", [500, "<html>", {"choices": []}])
def test_a_server_that_is_well_but_never_gives_a_completion_ends_the_asking_in_time(what: Any) -> None:
    answers, _ = ask(lambda body, k: what, times=client_module.GIVE_UP - 1)
    assert {type(answer) for answer in answers} == {Failed}
    with pytest.raises(ServerLostError, match=f"{client_module.GIVE_UP} requests in a row got no completion"):
        ask(lambda body, k: what, times=client_module.GIVE_UP)


def test_failures_with_completions_between_them_go_on() -> None:
    script: Any = lambda body, k: None if k % 4 == 3 else 500  # noqa: E731 - three attempts fail, one request works
    answers, _ = ask(script, times=3 * client_module.GIVE_UP)
    kinds = [type(answer) for answer in answers]
    assert kinds.count(Failed) > client_module.GIVE_UP
    assert kinds.count(Answer) > client_module.GIVE_UP


def test_requests_that_are_refused_say_nothing_about_the_server() -> None:
    answers, _ = ask(lambda body, k: 400, times=2 * client_module.GIVE_UP)
    assert {answer.cause for answer in answers if isinstance(answer, Failed)} == {"refused"}


@pytest.mark.parametrize("status", [401, 404])
def test_a_closed_endpoint_ends_the_asking(status: int) -> None:
    with pytest.raises(RolloutError, match=rf"no open /v1/completions \({status}\); expected an OpenAI-compatible"):
        ask(lambda body, k: status)


def test_a_server_of_ours_is_started_again_and_every_request_is_answered() -> None:
    async def run() -> tuple[list[Answer | Failed], int]:
        restarts = []
        async with FakeOpenAI(lambda body, k: 500) as dead, FakeOpenAI() as fresh:
            dead.healthy = False

            async def restart(lost: ServerLostError) -> list[str]:
                restarts.append(str(lost))
                return [fresh.url]

            async with EvalClient([dead.url], Served("fake", None, ""), 5, restart, QUICK) as client:
                answers = await asyncio.gather(*(client.complete(IDS, GREEDY) for _ in range(10)))
        return answers, len(restarts)

    answers, restarts = asyncio.run(run())
    assert [type(answer) for answer in answers] == [Answer] * 10
    assert restarts == 1


def test_the_others_take_over_from_a_server_that_is_lost() -> None:
    async def run() -> list[Answer | Failed]:
        async with FakeOpenAI() as gone:
            pass
        async with (
            FakeOpenAI() as well,
            EvalClient([gone.url, well.url], Served("fake", None, ""), 5, None, QUICK) as client,
        ):
            return await asyncio.gather(*(client.complete(IDS, GREEDY) for _ in range(20)))

    assert [type(answer) for answer in asyncio.run(run())] == [Answer] * 20


def test_requests_are_spread_over_the_servers() -> None:
    async def run() -> list[int]:
        async with (
            FakeOpenAI(lambda b, k: 0.05) as one,
            FakeOpenAI(lambda b, k: 0.05) as two,
            EvalClient([one.url, f"{two.url}/v1/"], Served("fake", None, ""), 5) as client,
        ):
            await asyncio.gather(*(client.complete(IDS, GREEDY) for _ in range(20)))
            return [len(one.bodies), len(two.bodies)]

    assert asyncio.run(run()) == [10, 10]


def found(name: str | None = None, **fake: Any) -> Served:
    async def run() -> Served:
        async with FakeOpenAI(**fake) as server:
            return await find_served(server.url, name)

    return asyncio.run(run())


def test_the_only_model_of_a_server_is_found_with_its_context() -> None:
    served = Served("fake", 8192, "vllm")
    assert found(model={"max_model_len": 8192, "owned_by": "vllm"}) == served
    assert found("fake", model={"max_model_len": 8192, "owned_by": "vllm"}) == served
    assert found() == Served("fake", None, "nobody")


def test_a_model_that_is_not_served_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="does not serve 'other'; it serves fake"):
        found("other")


def test_a_server_that_does_not_answer_is_said_to_be_so() -> None:
    with pytest.raises(RolloutError, match=r"http://127\.0\.0\.1:9 does not answer .*correct --base-url"):
        asyncio.run(find_served("http://127.0.0.1:9"))
    with pytest.raises(RolloutError, match="no-such-thing does not answer"):
        asyncio.run(find_served("no-such-thing"))


def test_the_key_in_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert client_module.headers() == {}
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    assert client_module.headers() == {"Authorization": "Bearer k"}
