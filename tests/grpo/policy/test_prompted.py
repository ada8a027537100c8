"""Prefix and prompt tuning: sampled in process as trained, learning, refused with vLLM."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from grpo.adapter_kinds import PROMPTED, REFUSED
from grpo.config import AdapterSettings, GRPOConfig, ModelSettings
from grpo.policy.adapters import add_adapter
from grpo.policy.compare import requests_for
from grpo.policy.learner import Learner
from grpo.policy.load import load_model, max_positions
from grpo.policy.proof import Prover
from grpo.policy.update import TrainBatch
from grpo.rollout.local import TransformersEngine
from grpo.types import Sample
from recipes.schema.load import load_recipe

KEYS = {
    "PREFIX_TUNING": {"num_virtual_tokens": 4},
    "PROMPT_TUNING": {"num_virtual_tokens": 4},
    "P_TUNING": {"num_virtual_tokens": 4, "encoder_hidden_size": 32},
    "CPT": {"cpt_token_ids": [5, 6, 7], "cpt_mask": [1, 1, 1], "cpt_tokens_type_mask": [1, 2, 4]},
    "CARTRIDGE": {"num_virtual_tokens": 4},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 2},
}
SIZES = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "initializer_range": 0.2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("prompted")
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def settings_of(folder: Path, kind: str) -> ModelSettings:
    return ModelSettings(path=str(folder), dtype="float32", adapter=AdapterSettings(peft_type=kind, **KEYS[kind]))


def learner_of(settings: ModelSettings, **config: object) -> Learner:
    return Learner(GRPOConfig(**config), 1.0, add_adapter(load_model(settings), settings, seed=3))


def test_every_kind_is_tried_here():
    assert set(KEYS) == set(PROMPTED)


@pytest.mark.parametrize("kind", PROMPTED)
def test_what_is_sampled_in_process_is_what_is_trained(folder, kind):
    settings = settings_of(folder, kind)
    learner = learner_of(settings)
    assert "stand before" in learner.forward.padded
    engine = TransformersEngine(settings, AutoTokenizer.from_pretrained(folder), 16)

    async def proven():
        await engine.start()
        requests = requests_for(learner.vocabulary, 60, 80, 8, 1.0)
        with ThreadPoolExecutor(1) as compute:
            prover = Prover(learner, engine, lambda v: engine.update_weights(learner.weights, v), requests, compute)
            return await prover.prove(0, fresh=False)

    proof = asyncio.run(proven())
    assert proof.true.difference < 1e-5
    assert proof.perturbed.equal
    assert engine._decoder.way == "equal"


@pytest.mark.parametrize("kind", PROMPTED)
def test_only_the_vectors_learn_and_the_folder_that_is_saved_computes_the_same(folder, kind, tmp_path):
    settings = settings_of(folder, kind)
    learner = learner_of(settings, learning_rate=3e-3, updates_per_batch=4, clip_high=5.0, correction="none")
    sample = Sample((5, 6, 7), (8, 9, 10, 11), (-4.0,) * 4, 1.0)
    before = torch.cat(learner.measured([sample])).sum()
    frozen = {name: one.clone() for name, one in learner.model.named_parameters() if not one.requires_grad}
    learner.update(1, TrainBatch([sample], [0.25]))
    after = torch.cat(learner.measured([sample])).sum()
    assert after > before + 0.02
    assert all(torch.equal(one, frozen[name]) for name, one in learner.model.named_parameters() if name in frozen)
    learner.save_model(tmp_path)
    again = PeftModel.from_pretrained(load_model(settings), tmp_path).eval()
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
    logp_TV = again(input_ids=ids).logits[0, -ids.shape[1] :].log_softmax(-1)
    assert sum(logp_TV[2 + i, token] for i, token in enumerate((8, 9, 10, 11))).item() == pytest.approx(
        after.item(), abs=1e-4
    )


def test_vectors_take_positions(folder):
    assert max_positions(settings_of(folder, "PREFIX_TUNING")) == 124


def test_with_a_kl_the_reference_is_the_model_without_the_vectors(folder):
    settings = settings_of(folder, "PREFIX_TUNING")
    learner = learner_of(settings, kl_coef=0.1, kl_place="reward")
    plain = Learner(GRPOConfig(), 1.0, load_model(settings))
    sample = Sample((5, 6, 7), (8, 9), (-4.0, -4.0), 1.0)
    reference = learner._update._reference_logprobs(learner._update._micro_batches(TrainBatch([sample], [1.0]))[0][0])
    torch.testing.assert_close(reference, torch.cat(plain.measured([sample])), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", PROMPTED)
def test_with_vllm_they_are_refused_with_the_reason(kind):
    adapter = json.dumps({"peft_type": kind.lower(), **KEYS[kind]})
    with pytest.raises(
        Exception, match=r"(?s)model\.adapter\.peft_type: .* before the prompt.*rollout\.engine: transformers"
    ):
        load_recipe("tiny_arithmetic_cpu", [f"model.adapter={adapter}"])


@pytest.mark.parametrize("kind", REFUSED)
def test_kinds_that_cannot_work_anywhere_say_why(kind):
    with pytest.raises(ValidationError, match=f"{kind}.*; use"):
        AdapterSettings(peft_type=kind)
