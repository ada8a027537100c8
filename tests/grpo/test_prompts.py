"""Prompts: what each template shows the model, which part of it is the answer's beginning, and its token ids."""

from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from grpo.prompts import R1_ZERO, SYSTEM, PromptError, render

CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
ROW = SimpleNamespace(id="t/0", question="12+30", answer="42", columns={"level": 1})


def tokenizer(chat: str | None = None, adds: str = "<s> $A") -> PreTrainedTokenizerFast:
    """Characters as tokens; `adds` is what tokenizing a raw text puts around it."""
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", "<unk>", *map(chr, range(10, 127))])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.post_processor = processors.TemplateProcessing(single=adds, special_tokens=[("<s>", 0), ("</s>", 1)])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made.chat_template = chat
    return made


def one(template: str, chat: str | None = None, adds: str = "<s> $A", **how):
    prompts, dropped = render([ROW], tokenizer(chat, adds), template, **how)
    assert dropped == 0
    return prompts[0]


def test_r1_zero_shows_the_papers_text_and_hands_the_model_an_open_think():
    prompt = one("r1_zero")
    assert prompt.text == R1_ZERO.replace("{question}", "12+30")
    assert prompt.text.endswith("User: 12+30\nAssistant: <think>")
    assert prompt.prefill == "<think>"
    assert (prompt.id, prompt.answer, prompt.columns) == ("t/0", "42", {"question": "12+30", "level": 1})


def test_a_prefill_follows_what_the_template_opened():
    prompt = one("r1_zero", prefill=" Let me see.")
    assert prompt.text.endswith("Assistant: <think> Let me see.")
    assert prompt.prefill == "<think> Let me see."


def test_a_text_template_that_opens_nothing_has_no_prefill():
    prompt = one("Q: {question} A:")
    assert (prompt.text, prompt.prefill) == ("Q: 12+30 A:", "")
    assert one("Q: {question} A:", prefill=" <think>").prefill == " <think>"


def test_braces_in_a_question_are_left_alone():
    row = SimpleNamespace(id="t/1", question=r"\frac{1}{2} {question}", answer="1", columns={})
    prompts, _ = render([row], tokenizer(), "{question}=")
    assert prompts[0].text == r"\frac{1}{2} {question}="


def test_a_chat_gets_the_default_system_prompt_another_or_none():
    assert one("chat", CHAT).text == f"<s>[system]{SYSTEM}[user]12+30[assistant]"
    assert one("chat", CHAT, system="Be brief.").text == "<s>[system]Be brief.[user]12+30[assistant]"
    assert one("chat", CHAT, system="").text == "<s>[user]12+30[assistant]"


def test_an_instruction_stands_on_its_own_line_after_the_question():
    assert one("chat", CHAT, system="", instruction="Think.").text == "<s>[user]12+30\nThink.[assistant]"


def test_a_chat_template_that_opens_think_makes_it_the_prefill():
    opening = CHAT.replace("[assistant]", "[assistant]<think>\n")
    assert one("chat", opening).prefill == "<think>\n"
    assert one("chat", opening, prefill="Hm.").prefill == "<think>\nHm."
    assert one("chat", CHAT).prefill == ""


def test_a_think_in_the_system_prompt_is_not_the_answers():
    assert one("chat", CHAT, system="Use <think>").prefill == ""


@pytest.mark.parametrize(
    ("template", "chat", "adds"),
    [
        ("{question}", None, "<s> $A"),  # the tokenizer adds it
        ("<s>{question}", None, "<s> $A"),  # both write it
        ("<s>{question}", None, "$A"),  # the template does
        ("{question}", None, "<s> $A </s>"),  # the tokenizer also ends the text
        ("chat", "{{ bos_token }}{{ messages[0].content }}", "<s> $A"),  # a chat template writes its own
    ],
)
def test_a_prompt_begins_with_one_bos_and_never_ends_with_eos(template, chat, adds):
    prompt = one(template, chat, adds, system="")
    characters = tokenizer().convert_tokens_to_ids(list("12+30"))
    assert prompt.token_ids == (0, *characters)


def test_a_tokenizer_that_adds_no_bos_gets_none():
    assert one("{question}", adds="$A").token_ids[0] != 0


def test_prompts_that_are_too_long_are_dropped_and_counted():
    rows = [SimpleNamespace(id=f"t/{n}", question="1" * n, answer="1", columns={}) for n in (3, 9, 4)]
    prompts, dropped = render(rows, tokenizer(), "{question}", max_prompt_tokens=5)  # 4 characters and <s>
    assert [prompt.id for prompt in prompts] == ["t/3", "t/4"]
    assert dropped == 1


def test_chat_without_a_chat_template_is_refused_with_the_alternative():
    with pytest.raises(PromptError, match=r"task.template: chat, but .* no chat template; use r1_zero"):
        one("chat")


def test_a_chat_template_that_takes_no_system_prompt_says_what_to_do():
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}x"
    with pytest.raises(PromptError, match=r"System role not supported.*task.system: \"\""):
        one("chat", refusing)
    assert one("chat", refusing, system="").text == "x"


def test_no_rows_make_no_prompts():
    assert render([], tokenizer(), "{question}") == ([], 0)
