"""Protocols: what changes the hash, what does not, and what cannot be run."""

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from eval.problems.benchmarks import BENCHMARKS, benchmark
from eval.problems.protocol import BOXED_STEPS, PLAIN, Generated, Protocol, ProtocolError, Source, grader
from eval.types import Problem

PLAIN_PROTOCOL = Protocol(Source("openai/gsm8k", "question", "answer", "main"), BOXED_STEPS, max_tokens=2048)
CHANGES = {
    "data": Source("openai/gsm8k", "question", "answer", "main", split="train"),
    "instruction": "Think.",
    "max_tokens": 1024,
    "template": "{question}=<think>",
    "plain": "{question}",
    "system": "You are a calculator.",
    "temperature": 0.6,
    "top_p": 0.95,
    "samples": 4,
    "read": ("boxed",),
    "verifier": "number",
    "rel_tol": 0.01,
    "abs_tol": 0.01,
    "rules": 0,
    "evaluated": True,
}
GOES_WITH = {"samples": {"temperature": 1.0}, "rel_tol": {"verifier": "number"}, "abs_tol": {"verifier": "number"}}


@pytest.mark.parametrize("key", CHANGES)
def test_whatever_changes_changes_the_hash(key):
    before = replace(PLAIN_PROTOCOL, **GOES_WITH.get(key, {}))
    assert replace(before, **{key: CHANGES[key]}).hash() != before.hash()


def test_every_setting_is_among_those_that_change_the_hash():
    assert set(CHANGES) == {field.name for field in fields(Protocol)}


def test_the_hash_is_the_same_in_another_process_and_for_equal_numbers():
    code = "from eval.problems.benchmarks import BENCHMARKS; print(*(b.protocol.hash() for b in BENCHMARKS.values()))"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.split() == [one.protocol.hash() for one in BENCHMARKS.values()]
    assert replace(PLAIN_PROTOCOL, temperature=0, top_p=1).hash() == PLAIN_PROTOCOL.hash()


def test_the_hash_is_12_hex_digits_and_no_two_benchmarks_share_one():
    hashes = [one.protocol.hash() for one in BENCHMARKS.values()]
    assert len(set(hashes)) == len(BENCHMARKS)
    assert all(len(digits) == 12 and int(digits, 16) >= 0 for digits in hashes)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_canonical_form_survives_json(name):
    plain = benchmark(name).protocol.canonical()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["samples"] == benchmark(name).protocol.samples


def test_another_panel_of_generated_problems_has_another_hash():
    data = Generated("countdown", problems=300, levels=(1, 2, 3))
    hashes = {replace(PLAIN_PROTOCOL, data=replace(data, seed=seed)).hash() for seed in range(3)}
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"samples": 4},
            "samples: 4 greedy completions would all be the same; use samples 1, or a temperature above 0",
        ),
        ({"samples": 0}, "samples: got 0, expected at least 1"),
        ({"max_tokens": 0}, "max_tokens: got 0, expected at least 1"),
        ({"temperature": -0.1}, "temperature: got -0.1, expected at least 0"),
        ({"top_p": 0.0}, "top_p: got 0.0, expected above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p: got 1.1, expected above 0 and at most 1"),
        ({"template": "Q:"}, "template: got 'Q:', expected chat, r1_zero or a text that contains {question}"),
        ({"plain": "chat"}, "plain: got 'chat', expected a text that contains {question}"),
        ({"verifier": "maths"}, "verifier: got 'maths', expected one of math, countdown, multiple_choice, number"),
        ({"read": ()}, "read: got [], expected some of tag, boxed, hashes, phrase, last_line"),
        ({"read": ("box",)}, "read: got ['box'], expected some of tag, boxed, hashes, phrase, last_line"),
        ({"rel_tol": 0.01}, "rel_tol, abs_tol: only the verifier number has a tolerance, got math"),
        ({"verifier": "number", "abs_tol": -1.0}, "rel_tol, abs_tol: got 0.0 and -1.0, expected at least 0"),
    ],
)
def test_what_cannot_be_run_is_refused_with_one_message(changes, message):
    with pytest.raises(ProtocolError) as caught:
        replace(PLAIN_PROTOCOL, **changes)
    assert str(caught.value) == message


def test_an_override_changes_the_hash_and_none_leaves_a_setting_as_it_is():
    aime = benchmark("aime24")
    assert aime.override(samples=None, temperature=None) == aime
    eight = aime.override(samples=8)
    assert (eight.protocol.samples, eight.protocol.temperature) == (8, 0.6)
    assert eight.protocol.hash() != aime.protocol.hash()
    assert (eight.name, eight.problems) == ("aime24", 30)


def test_an_override_that_cannot_be_run_names_the_benchmark():
    with pytest.raises(ProtocolError, match=r"\Agsm8k: samples: 4 greedy completions would all be the same"):
        benchmark("gsm8k").override(samples=4)
    assert benchmark("gsm8k").override(samples=4, temperature=0.8).protocol.samples == 4


def test_a_model_without_a_chat_template_gets_the_stated_text():
    assert PLAIN_PROTOCOL.template_for(has_chat_template=True) == "chat"
    assert PLAIN_PROTOCOL.template_for(has_chat_template=False) == PLAIN
    r1_zero = replace(PLAIN_PROTOCOL, template="r1_zero")
    assert {r1_zero.template_for(has) for has in (True, False)} == {"r1_zero"}


def test_answers_are_read_where_the_protocol_says():
    problem = Problem("p/0", "1 + 1", "2")
    lenient = replace(PLAIN_PROTOCOL, read=("boxed", "last_line"))
    assert grader(PLAIN_PROTOCOL)("It is 2", problem).outcome == "no_answer"
    assert grader(lenient)("So:\n2", problem).outcome == "correct"


def test_numbers_may_have_a_tolerance():
    close = replace(PLAIN_PROTOCOL, verifier="number", rel_tol=0.01)
    problem = Problem("p/0", "?", "200")
    outcomes = [grader(close)(f"\\boxed{{{value}}}", problem).outcome for value in (198, 202, 203)]
    assert outcomes == ["correct", "correct", "wrong"]
