"""Scaled positions: as transformers computes them, served as trained at twice the original length, refused in words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoTokenizer, Gemma3TextConfig, GPT2Config, LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from grpo.config import GRPOConfig, LoraSettings, ModelError, ModelSettings, RolloutSettings, ServerSettings
from grpo.policy.compare import requests_for
from grpo.policy.learner import Learner
from grpo.policy.load import load_config, load_model, max_positions
from grpo.policy.proof import Prover, ServedProof
from grpo.policy.rope import overrides, scale_positions
from grpo.rollout.engine import RolloutEngine
from grpo.rollout.local import TransformersEngine
from grpo.rollout.vllm.engine import VLLMEngine
from grpo.rope import RopeScaling

ORIGINAL, TWICE = 96, 192
SIZES = {
    "vocab_size": 128,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "max_position_embeddings": ORIGINAL,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "initializer_range": 0.2,
}
KINDS = ("linear", "dynamic", "yarn", "llama3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("rope")
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def settings_of(folder: Path, kind: str | None, **numbers: float) -> ModelSettings:
    scaling = RopeScaling(rope_type=kind, factor=2.0, **numbers) if kind else None
    return ModelSettings(path=str(folder), dtype="float32", rope_scaling=scaling)


@pytest.mark.parametrize("kind", KINDS)
def test_frequencies_are_those_of_transformers_at_the_full_length(folder, kind):
    ours = load_model(settings_of(folder, kind)).model.rotary_emb
    config = LlamaConfig(**SIZES)
    config.rope_parameters |= {"rope_type": kind, "factor": 2.0, "original_max_position_embeddings": ORIGINAL}
    config.rope_parameters |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    inv_freq, scale = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=TWICE)
    torch.testing.assert_close(ours.inv_freq, inv_freq, rtol=1e-6, atol=0)
    assert ours.attention_scaling == scale
    plain = load_model(settings_of(folder, None)).model.rotary_emb
    assert not torch.allclose(ours.inv_freq, plain.inv_freq)
    assert max_positions(settings_of(folder, kind)) == TWICE


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_trained_with_a_scaling_keeps_it_and_gets_no_second_one(folder, tmp_path, kind):
    settings = settings_of(folder, kind)
    model = load_model(settings)
    model.save_pretrained(tmp_path)
    for again in (settings_of(tmp_path, None), settings_of(tmp_path, kind)):
        assert max_positions(again) == TWICE
        assert torch.equal(load_model(again).model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    with pytest.raises(ModelError, match=r"model\.rope_scaling: got .*'factor': 2\.0.*trained with"):
        load_config(settings_of(tmp_path, "linear" if kind == "yarn" else "yarn"))


def test_logprobs_do_not_depend_on_how_long_the_other_rows_are(folder):
    model = load_model(settings_of(folder, "dynamic"))
    short, long = torch.arange(20)[None], torch.arange(TWICE - 1)[None] % 128
    before = model(short).logits
    model(long)
    assert torch.equal(model(short).logits, before)


def test_layers_with_a_window_keep_their_positions():
    config = Gemma3TextConfig(**SIZES, layer_types=["sliding_attention", "full_attention"])
    before = deepcopy(config.rope_parameters)
    scale_positions(config, RopeScaling(rope_type="linear", factor=4.0))
    assert config.rope_parameters["sliding_attention"] == before["sliding_attention"]
    assert config.rope_parameters["full_attention"]["factor"] == 4.0
    assert overrides(config)["max_position_embeddings"] == 4 * ORIGINAL
    json.dumps(overrides(config))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rope_type": "yarn", "factor": 1.0}, "factor"),
        ({"rope_type": "longrope", "factor": 2.0}, "linear.*dynamic.*yarn.*llama3"),
        ({"rope_type": "linear", "factor": 2.0, "beta_fast": 32}, "rope_type: linear has no such number"),
        ({"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 4}, "more than low_freq_factor"),
        ({"rope_type": "yarn", "factor": 2.0, "beta_slow": 40}, "more than beta_slow"),
        ({"rope_type": "yarn", "factr": 2.0}, "factr"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(given, said):
    with pytest.raises(ValidationError, match=f"(?s){said}"):
        RopeScaling(**given)


def test_an_adapter_is_refused_because_its_folder_would_not_say_so():
    with pytest.raises(ValidationError, match="folder of an adapter does not say"):
        ModelSettings(path="x", lora=LoraSettings(), rope_scaling=RopeScaling(rope_type="yarn", factor=2.0))


@pytest.mark.parametrize(
    ("config", "numbers", "said"),
    [
        (GPT2Config(), {}, "gpt2 has no rotary positions"),
        (LlamaConfig(**SIZES), {"original_max_position_embeddings": 200}, "at most these"),
        (LlamaConfig(**SIZES), {"original_max_position_embeddings": 40}, "more than these in the end"),
        (
            LlamaConfig(**SIZES, rope_parameters={"rope_type": "linear", "factor": 2.0}),
            {},
            "scales its positions already",
        ),
    ],
)
def test_what_cannot_be_scaled_is_refused(config, numbers, said):
    with pytest.raises(ModelError, match=rf"model\.rope_scaling: .*{said}"):
        scale_positions(config, RopeScaling(rope_type="yarn", factor=2.0, **numbers))


# -- Served as trained ---------------------------------------------------------------------------------------------


def proven(runner: asyncio.Runner, settings: ModelSettings, engine: RolloutEngine, reach: int = TWICE) -> ServedProof:
    learner = Learner(GRPOConfig(), 1.0, load_model(settings))

    async def send(version: int) -> object:
        return await engine.update_weights(learner.weights, version)

    requests = requests_for(learner.vocabulary, reach, reach, 64, 1.0)
    assert max(len(one.prompt.token_ids) + one.sampling.max_tokens for one in requests) == reach
    with ThreadPoolExecutor(1) as compute:
        return runner.run(Prover(learner, engine, send, requests, compute).prove(0, fresh=True))


@pytest.mark.parametrize("kind", KINDS)
def test_in_process_what_is_served_is_what_is_trained_at_twice_the_length(folder, kind):
    settings = settings_of(folder, kind)
    with asyncio.Runner() as runner:
        engine = TransformersEngine(settings, AutoTokenizer.from_pretrained(folder), 16)
        runner.run(engine.start())
        proof = proven(runner, settings, engine)
    assert proof.true.difference < 1e-5
    assert proof.perturbed.equal


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory) -> Iterator[tuple[asyncio.Runner, VLLMEngine]]:
    with asyncio.Runner() as runner:
        server = ServerSettings(request_timeout=600)
        rollout = RolloutSettings(max_tokens=64, max_prompt_tokens=TWICE, max_sequences=16, server=server)
        parts = (str(folder), settings_of(folder, "yarn"), rollout, AutoTokenizer.from_pretrained(folder))
        engine = VLLMEngine(*parts, tmp_path_factory.mktemp("run"))
        runner.run(engine.start())
        yield runner, engine
        runner.run(engine.close())


@pytest.mark.server
def test_the_server_computes_what_is_trained_at_twice_the_length(folder, server):
    proof = proven(server[0], settings_of(folder, "yarn"), server[1])
    assert proof.true.difference < 1e-5
    assert proof.perturbed.equal


@pytest.mark.server
def test_a_scaling_that_only_the_server_has_is_named(folder, server):
    with pytest.raises(ModelError, match=r"The attention: .*rope_scaling"):
        proven(server[0], settings_of(folder, None), server[1], reach=ORIGINAL)
