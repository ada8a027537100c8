"""Loss and gradient of supervised fine-tuning are those of TRL's SFTTrainer on the same rows, packed or padded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from grpo.config import ModelSettings
from grpo.losses import token_weights
from grpo.losses.cross_entropy import CrossEntropy
from grpo.policy.learner import Learner
from grpo.policy.load import load_model, load_tokenizer
from grpo.policy.update import TrainBatch
from grpo.sft.config import SFTConfig
from grpo.sft.examples import Reader, kind_of, read_examples

pytestmark = pytest.mark.slow  # to import TRL takes seconds

TEMPLATE = (
    "{% for message in messages %}{{ '[' + message['role'] + ']' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<eos>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)


def turns(*contents: str) -> list[dict[str, str]]:
    roles = ["user", "assistant"] * len(contents)
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]


ROWS = {
    "messages": [
        {"messages": turns("2+3?", "5")},
        {"messages": turns("12+30?", "<think>12+30</think>42", "and 1 more", "43")},
        {"messages": [{"role": "system", "content": "Be brief."}, *turns("hi", "hello there, how are you?")]},
    ],
    "prompt and completion": [
        {"prompt": "2+3=", "completion": "5"},
        {"prompt": "2+3=", "completion": "five"},
        {"prompt": "a long prompt of many tokens: 4 * 25 = ", "completion": "100, of course"},
    ],
    "conversational prompt and completion": [
        {"prompt": turns("2+3?"), "completion": [{"role": "assistant", "content": "5"}]},
        {"prompt": turns("1+1?", "2", "and 1 more?"), "completion": [{"role": "assistant", "content": "3"}]},
    ],
    "text": [{"text": "The quick brown fox."}, {"text": "jumps"}, {"text": "over the lazy dog, and over the moon."}],
}


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("kind", ROWS)
def test_loss_and_gradient(tiny_model: Path, tmp_path: Path, kind: str, packing: bool) -> None:
    theirs_loss, theirs = trl(tiny_model, tmp_path, ROWS[kind], assistant_only=kind == "messages")
    loss, ours = zero(tiny_model, ROWS[kind], packing)
    assert loss == pytest.approx(theirs_loss, abs=1e-5)
    assert ours.keys() == theirs.keys()
    assert max(gradient.abs().max().item() for gradient in ours.values()) > 1e-3
    assert max((ours[name] - theirs[name]).abs().max().item() for name in ours) < 1e-5


def zero(model: Path, rows: list[dict[str, Any]], packing: bool) -> tuple[float, dict[str, torch.Tensor]]:
    settings = ModelSettings(path=str(model), dtype="float32")
    config = SFTConfig(packing=packing, batch_size=len(rows), max_grad_norm=1e9)
    tokenizer = load_tokenizer(settings)
    tokenizer.chat_template = TEMPLATE
    reader = Reader(tokenizer, config, kind_of(list(rows[0]), None, "rows"))
    found = read_examples(((str(i), row) for i, row in enumerate(rows)), reader, config)
    assert not found.dropped, found.first
    policy = load_model(settings)
    learner = Learner(config.for_update(1), 1.0, policy, objective=CrossEntropy())
    assert (learner.padded is None) == packing
    weights = token_weights("token", [example.n_trained for example in found.kept], config.max_length)
    metrics = learner.update(1, TrainBatch([example.sample for example in found.kept], weights))
    gradients = {name: parameter.grad for name, parameter in policy.named_parameters() if parameter.grad is not None}
    return metrics["loss"], gradients


def trl(
    model: Path, folder: Path, rows: list[dict[str, Any]], assistant_only: bool
) -> tuple[float, dict[str, torch.Tensor]]:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig as TRLConfig
    from trl import SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = TEMPLATE
    config = TRLConfig(
        output_dir=str(folder),
        per_device_train_batch_size=len(rows),
        assistant_only_loss=assistant_only,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        max_length=None,
    )
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    trainer = SFTTrainer(policy, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
