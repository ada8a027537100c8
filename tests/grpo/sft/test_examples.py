"""Rows into examples: which tokens are learned, what is dropped and why, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from grpo.sft.config import ColumnNames, SFTConfig
from grpo.sft.errors import RowError, SFTError
from grpo.sft.examples import Example, Reader, kind_of, marked, read_examples, split_held_out
from grpo.sft.template import training_template
from tests.grpo.sft.test_against_trl import TEMPLATE, turns

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
# What the model itself writes before and after its words, after the prompt of its turn.
PUBLIC = {
    "qwen2_5": ("", "<|im_end|>"),
    "qwen3": ("<think>\n\n</think>\n\n", "<|im_end|>"),
    "llama3": ("", "<|eot_id|>"),
    "gemma": ("", "<end_of_turn>"),
    "deepseekv3": ("", "<｜end▁of▁sentence｜>"),  # noqa: RUF001
    "glm4moe": ("\n<think></think>\n", "<|user|>"),
    "lfm2": ("", "<|im_end|>"),
}


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<eos>": 0, **{letter: i for i, letter in enumerate(alphabet, 1)}}
    model = Tokenizer(models.BPE(vocabulary, [], unk_token=None))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<eos>", chat_template=TEMPLATE)


def read(tokenizer: Any, rows: list[dict[str, Any]], **settings: Any) -> Any:
    config = SFTConfig(**settings)
    reader = Reader(tokenizer, config, kind_of(list(rows[0]), None, "rows"))
    return read_examples(((f"row {i}", row) for i, row in enumerate(rows)), reader, config)


def learned(tokenizer: Any, example: Example) -> str:
    return tokenizer.decode([token for token, trained in zip(example.ids, example.trained, strict=True) if trained])


@pytest.mark.parametrize("name", PUBLIC)
def test_of_a_public_template_exactly_what_the_assistant_wrote_is_learned(tokenizer, name) -> None:
    tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
    rows = [{"messages": turns("What is 2+3?", "It is 5.", "And 4+4?", "That is 8: é.")}]
    start, end = PUBLIC[name]
    assert learned(tokenizer, read(tokenizer, rows).kept[0]) == f"{start}It is 5.{end}{start}That is 8: é.{end}"


def test_each_kind_of_row(tokenizer) -> None:
    for row, expected in [
        ({"messages": turns("2+3?", "5", "so?", "6")}, "5<eos>6<eos>"),
        ({"prompt": "2+3=", "completion": "5"}, "5<eos>"),
        ({"prompt": turns("2+3?"), "completion": [{"role": "assistant", "content": "5"}]}, "5<eos>"),
        ({"text": "a text"}, " text<eos>"),
    ]:
        assert learned(tokenizer, read(tokenizer, [row]).kept[0]).endswith(expected)


def test_with_loss_on_all_the_whole_conversation_is_learned(tokenizer) -> None:
    example = read(tokenizer, [{"messages": turns("2+3?", "5")}], loss_on="all").kept[0]
    assert example.n_trained == len(example.ids) - 1


def test_the_sample_computes_only_what_the_learned_tokens_need(tokenizer) -> None:
    sample = read(tokenizer, [{"messages": [*turns("2+3?", "5"), {"role": "user", "content": "ok"}]}]).kept[0].sample
    assert tokenizer.decode(sample.prompt_ids + sample.completion_ids) == "[user]2+3?[assistant]5<eos>"
    assert sample.trained is None
    assert tokenizer.decode(sample.completion_ids) == "5<eos>"


def test_what_is_learned_is_marked(tokenizer) -> None:
    example = read(tokenizer, [{"messages": turns("2+3?", "5", "so?", "6")}]).kept[0]
    assert marked(example, tokenizer) == "[user]2+3?[assistant]»5<eos>«[user]so?[assistant]»6<eos>«"


def test_rows_that_cannot_be_learned_from_are_counted_under_their_reason(tokenizer) -> None:
    rows = [
        {"messages": turns("2+3?", "5")},
        {"messages": [{"role": "user", "content": "nobody answers"}]},
        {"messages": []},
        {"messages": turns("a long one", "x" * 200)},
        {"messages": [{"content": "no role"}]},
        {"messages": None},
    ]
    found = read(tokenizer, rows, max_length=100)
    assert [example.id for example in found.kept] == ["row 0"]
    assert found.dropped == {"not readable": 4, "longer than train.max_length (100)": 1}
    assert "assistant's turn" in found.first["not readable"]


def test_a_longer_one_is_cut_where_asked(tokenizer) -> None:
    found = read(tokenizer, [{"messages": turns("2+3?", "x" * 200)}], max_length=50, longer="cut")
    assert len(found.kept[0].ids) == 50
    assert not found.dropped


def test_equal_examples_fall_on_one_side(tokenizer) -> None:
    examples = read(tokenizer, [{"text": f"text {i % 40}"} for i in range(400)]).kept
    train, held_out = split_held_out(examples, 0.3, 0)
    assert len(train) + len(held_out) == 400
    assert not {example.ids for example in train} & {example.ids for example in held_out}
    assert 40 < len(held_out) < 200


@pytest.mark.parametrize(
    ("columns", "names", "message"),
    [
        (["question", "answer"], None, "has the columns question, answer, expected messages"),
        (["question"], ColumnNames(messages="mesages"), "no column 'mesages'"),
    ],
)
def test_missing_columns_are_named(columns, names, message) -> None:
    with pytest.raises(SFTError, match=message):
        kind_of(columns, names, "rows")


def test_templates_that_cannot_be_trained_with_are_refused(tokenizer, tmp_path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    with pytest.raises(SFTError, match=r"marks nothing; put \{% generation %\}"):
        training_template(tokenizer, str(file))
    with pytest.raises(SFTError, match="cannot be read"):
        training_template(tokenizer, str(tmp_path / "none.jinja"))
    tokenizer.chat_template = file.read_text()
    with pytest.raises(SFTError, match=r"does not mark the assistant's turns.*train.chat_template"):
        training_template(tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(SFTError, match="has no chat template"):
        training_template(tokenizer)


def test_a_template_that_refuses_a_conversation_costs_that_row(tokenizer) -> None:
    tokenizer.chat_template = TEMPLATE.replace(
        "{% for message in messages %}",
        "{% if messages[0]['role'] != 'user' %}{{ raise_exception('a user must begin') }}{% endif %}"
        "{% for message in messages %}",
    )
    found = read(tokenizer, [{"messages": turns("a", "b")}, {"messages": turns("a", "b")[1:]}])
    assert len(found.kept) == 1
    assert "a user must begin" in found.first["not readable"]


def test_nulls_that_a_table_filled_in_are_no_values(tokenizer) -> None:
    tokenizer.chat_template = "{% for m in messages %}{% if 'name' in m %}NAME{% endif %}{% endfor %}" + TEMPLATE
    rows = [{"messages": [{**message, "name": None} for message in turns("a", "b")]}]
    assert "NAME" not in tokenizer.decode(read(tokenizer, rows).kept[0].ids)


def test_a_tokenizer_without_an_end_token_is_refused(tokenizer) -> None:
    tokenizer.eos_token = None
    with pytest.raises(SFTError, match="no end-of-sequence token"):
        read(tokenizer, [{"text": "a"}])


def test_row_errors_are_errors_of_sft() -> None:
    assert issubclass(RowError, SFTError)
