"""A benchmark of one's own: what the YAML file may say, and what is said when it is wrong."""

import json

import pytest

from eval.problems.benchmarks import benchmark, load_problems
from eval.problems.data import DataError
from eval.problems.protocol import BOXED_STEPS, grader

ROWS = [
    {"prompt": "1 + 1?", "gold": "so #### 2", "topic": "sums", "hard": 1},
    {"prompt": "2 * 3?", "gold": "so #### 6", "topic": "products", "hard": 2},
]
FILE = """
dataset: rows.jsonl
columns: {question: prompt, answer: gold, subject: topic, level: hard}
answer_pattern: '####\\s*(.+)'
"""


def jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def described(folder, text):
    path = folder / "my_bench.yaml"
    path.write_text(text)
    return str(path)


def test_naming_the_columns_is_enough(tmp_path):
    jsonl(tmp_path / "rows.jsonl", ROWS)
    own = benchmark(described(tmp_path, FILE))
    problems, dropped = load_problems(own, data_dir=tmp_path / "of other sets")
    assert (own.name, own.protocol.instruction, own.protocol.samples, dropped) == ("my_bench", BOXED_STEPS, 1, [])
    assert [(one.id, one.question, one.answer, one.subject, one.level) for one in problems] == [
        ("my_bench/test/0", "1 + 1?", "2", "sums", "1"),
        ("my_bench/test/1", "2 * 3?", "6", "products", "2"),
    ]


def test_everything_of_the_protocol_can_be_said(tmp_path):
    jsonl(tmp_path / "data" / "dev.jsonl", [{"q": "pi?", "a": "3.14"}])
    text = """
    name: circles
    dataset: data
    split: dev
    columns: {question: q, answer: a}
    instruction: Be brief.
    template: r1_zero
    system: ""
    temperature: 0.8
    top_p: 0.9
    max_tokens: 100
    samples: 4
    read: [last_line]
    verifier: number
    abs_tol: 0.01
    source: https://example.org
    licence: MIT
    """
    own = benchmark(described(tmp_path, text))
    asked = own.protocol
    (problem,) = load_problems(own).problems
    assert problem.id == "circles/dev/0"
    assert (own.source, own.licence, asked.instruction, asked.template) == (
        "https://example.org",
        "MIT",
        "Be brief.",
        "r1_zero",
    )
    assert (asked.temperature, asked.top_p, asked.max_tokens, asked.samples) == (0.8, 0.9, 100, 4)
    assert grader(asked)("about\n3.15", problem).outcome == "correct"
    assert grader(asked)("about\n3.16", problem).outcome == "wrong"


def test_the_hash_depends_on_what_the_file_says_and_not_on_where_it_stands(tmp_path):
    for place in ("here", "there"):
        jsonl(tmp_path / place / "rows.jsonl", ROWS)
    here, there = [benchmark(described(tmp_path / place, FILE)).protocol for place in ("here", "there")]
    more = benchmark(described(tmp_path / "there", FILE + "max_tokens: 100\n")).protocol
    assert here.hash() == there.hash() != more.hash()


def test_data_is_looked_for_beside_the_file_and_then_from_here(tmp_path, monkeypatch):
    jsonl(tmp_path / "work" / "rows.jsonl", ROWS[:1])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    path = described(tmp_path / "elsewhere", FILE)
    assert len(load_problems(benchmark(path)).problems) == 1
    jsonl(tmp_path / "elsewhere" / "rows.jsonl", ROWS)
    assert len(load_problems(benchmark(path)).problems) == 2


def test_a_hub_id_is_taken_from_the_data_folder_where_one_is_given(tmp_path):
    jsonl(tmp_path / "my_bench" / "test.jsonl", ROWS)
    own = benchmark(described(tmp_path, FILE.replace("rows.jsonl", "someone/something")))
    assert len(load_problems(own, tmp_path).problems) == 2


def test_choices_and_countdown_rows_bring_the_columns_that_their_verifier_needs(tmp_path):
    jsonl(tmp_path / "rows.jsonl", [{"prompt": "Italy?", "gold": 1, "choices": ["Oslo", "Rome"], "read": "a book"}])
    text = "dataset: rows.jsonl\ncolumns: {question: prompt, answer: gold}\n"
    own = benchmark(described(tmp_path, text + "verifier: multiple_choice\n"))
    problems, dropped = load_problems(own)
    assert dropped == []
    assert grader(own.protocol)("\\boxed{B}", problems[0]).outcome == "correct"
    with pytest.raises(DataError, match="my_bench has no column 'numbers'; it has prompt, gold, choices, read"):
        load_problems(benchmark(described(tmp_path, text + "verifier: countdown\n")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colums: {}", "colums: unknown key (did you mean 'columns'?); allowed here: name, "),
        ("dataset: x.jsonl", "columns: required, but absent"),
        ("dataset: x\ncolumns: {question: q}", "columns.answer: required, but absent"),
        (
            "dataset: x\ncolumns: {question: q, answer: a, sujet: s}",
            "columns.sujet: unknown key (did you mean 'subject'?); allowed here: question, answer, subject, level",
        ),
        (FILE + "verifier: maths", "verifier: got 'maths': Input should be 'math', 'countdown', "),
        (FILE + "verifier: maths", " (did you mean 'math'?)"),
        (FILE + "read: [box]", "read.0: got 'box': Input should be 'tag', 'boxed', "),
        (FILE + "temperature: hot", "temperature: got 'hot': Input should be a valid number"),
        (FILE + "samples: 8", "samples: 8 greedy completions would all be the same"),
        (FILE + "template: 'Q:'", "template: got 'Q:', expected chat, r1_zero or a text that contains {question}"),
        (FILE.replace("(.+)", ".+"), "with 0 groups, expected one group, around the answer"),
        (FILE + "name: a/b", "name: got 'a/b': "),
        (FILE + "name: gsm8k", "name: gsm8k is a built-in benchmark; give another name"),
        ("- dataset", "expected a mapping with dataset and columns, got ['dataset']"),
        ("", "expected a mapping with dataset and columns, got None"),
        ("dataset: [", "not a text file in YAML: "),
    ],
)
def test_a_mistake_is_named_with_the_file_and_what_is_allowed(tmp_path, text, message):
    path = described(tmp_path, text)
    with pytest.raises(DataError) as caught:
        benchmark(path)
    assert all(line.startswith(f"{path}: ") for line in str(caught.value).splitlines())
    assert message in str(caught.value)


def test_several_mistakes_are_one_line_each(tmp_path):
    with pytest.raises(DataError) as caught:
        benchmark(described(tmp_path, "colums: {}\nsamples: many\n"))
    assert len(str(caught.value).splitlines()) == 4  # dataset and columns are absent, one key unknown, one no number


def test_a_file_or_data_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing.yaml: there is no such file"):
        benchmark(str(tmp_path / "nothing.yaml"))
    with pytest.raises(DataError, match=r"my_bench: rows.jsonl does not exist; expected a .jsonl"):
        load_problems(benchmark(described(tmp_path, FILE)))


def test_wrong_columns_list_what_there_is(tmp_path):
    jsonl(tmp_path / "rows.jsonl", ROWS)
    own = benchmark(described(tmp_path, FILE.replace("subject: topic", "subject: topics")))
    with pytest.raises(
        DataError, match=r"my_bench has no column 'topics' \(did you mean 'topic'\?\); it has prompt, gold"
    ):
        load_problems(own)
