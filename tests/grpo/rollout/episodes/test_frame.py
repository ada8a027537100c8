"""What is appended after a reply is what the template writes there; a template that turns back is refused."""

from __future__ import annotations

import pytest

from grpo.prompts import PromptError, apply_chat_template
from grpo.rollout.episodes.frame import Frame
from tests.conftest import character_tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As DeepSeek-R1's: the thought is opened for a new reply, and left out of earlier ones.
THINKS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ 'A:' + m.content.split('</think>')[-1] + '<|im_end|>' }}"
    "{% else %}{{ 'U:' + m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'A:<think>\n' }}{% endif %}"
)
# As Mistral's: the system prompt stands in the last message of the user.
TURNS_BACK = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[I]' }}{% if loop.last and messages[0].role == 'system' %}"
    "{{ messages[0].content + '\n' }}{% endif %}{{ m.content + '[/I]' }}{% elif m.role == 'assistant' %}"
    "{{ ' ' + m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
)
USER = {"role": "user", "content": "12?"}
HIGHER = {"role": "user", "content": "higher"}


def tokenizer(template: str | None = None):
    found = character_tokenizer()
    found.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})
    found.add_tokens(["\n"])
    found.chat_template = template
    return found


def replied(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_the_tokens_of_a_conversation_are_those_of_the_template_where_it_keeps_what_was_said():
    tok = tokenizer(CHATML)
    frame = Frame(tok, "chat")
    end = tok.convert_tokens_to_ids("<|im_end|>")
    ids = tok(apply_chat_template(tok, [USER]), add_special_tokens=False)["input_ids"]
    said: list[dict[str, str]] = []
    for k, new in enumerate([[HIGHER], [{"role": "tool", "content": "7"}, HIGHER]]):
        ids += [*tok(f"is it {k}", add_special_tokens=False)["input_ids"], end]
        said.append(replied(f"is it {k}"))
        between, opened = frame.next([USER], said, new, end)
        assert opened == ""
        ids += between
        said += new
    assert ids == tok(apply_chat_template(tok, [USER, *said]), add_special_tokens=False)["input_ids"]


def test_a_turn_that_ended_with_another_token_is_closed_as_the_template_closes_it():
    tok = tokenizer(CHATML)
    between, _ = Frame(tok, "chat").next([USER], [replied("5")], [HIGHER], last=0)
    closed, _ = Frame(tok, "chat").next([USER], [replied("5")], [HIGHER], tok.convert_tokens_to_ids("<|im_end|>"))
    assert tok.decode(between).startswith("<|im_end|>")
    assert between[1:] == closed


def test_a_thought_that_the_template_opens_is_opened_for_every_reply_and_thoughts_stay():
    tok = tokenizer(THINKS)
    end = tok.convert_tokens_to_ids("<|im_end|>")
    said = [replied("<think>\nhm</think>5")]
    between, opened = Frame(tok, "chat", prefill="so ").next([USER], said, [HIGHER], end)
    assert (tok.decode(between), opened) == ("U:higherA:<think>\nso ", "<think>\nso ")


def test_a_template_that_moves_the_system_prompt_is_refused_with_the_reason():
    tok = tokenizer(TURNS_BACK)
    Frame(tok, "chat").check([USER])
    with pytest.raises(PromptError, match=r"writes earlier turns anew .* cannot be gone on with(.|\n)*turn_template"):
        Frame(tok, "chat").check([{"role": "system", "content": "be short"}, USER])


def test_a_role_that_the_template_leaves_out_is_refused():
    tok = tokenizer(TURNS_BACK)
    with pytest.raises(PromptError, match="leaves out the message of role tool '7'"):
        Frame(tok, "chat").next([USER], [replied("5")], [{"role": "tool", "content": "7"}], 0)


def test_a_template_that_takes_no_second_turn_is_refused():
    tok = tokenizer(
        "{% if messages|length > 1 %}{{ raise_exception('one turn only') }}{% endif %}U:{{messages[0].content}}A:"
    )
    with pytest.raises(PromptError, match="one turn only"):
        Frame(tok, "chat").check([USER])


@pytest.mark.parametrize(
    ("template", "turn", "prefill", "text", "opened"),
    [
        ("{question}=", None, None, "higher\nlower=", ""),
        ("{question}=<think>", None, None, "higher\nlower=<think>", "<think>"),
        ("{question}=", "\nQ: {message}\nA: ", "so", "\nQ: higher\nlower\nA: so", "so"),
        ("r1_zero", None, None, "\nUser: higher\nlower\nAssistant: <think>", "<think>"),
    ],
)
def test_a_text_goes_on_as_it_began_or_as_turn_template_says(template, turn, prefill, text, opened):
    tok = tokenizer()
    frame = Frame(tok, template, turn, prefill)
    between, own = frame.next((), [replied("5")], [HIGHER, {"role": "user", "content": "lower"}], tok.eos_token_id)
    assert (tok.decode(between), own) == (text, opened)
