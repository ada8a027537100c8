"""The proof against the real vLLM server: what is served as trained passes, each sabotage is named.

One server start, about 40 s on two free cores; each test begins with the true weights on it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, Qwen3MoeConfig, Qwen3MoeForCausalLM

from grpo.config import GRPOConfig, LoraSettings, ModelError, ModelSettings, RolloutSettings, ServerSettings
from grpo.policy import adapters
from grpo.policy.adapters import add_adapter
from grpo.policy.compare import requests_for
from grpo.policy.learner import Learner
from grpo.policy.load import load_model
from grpo.policy.proof import Prover, ServedProof
from grpo.rollout.engine import WeightSyncError
from grpo.rollout.sync.stream import TensorSpec, WeightStream
from grpo.rollout.vllm.engine import VLLMEngine

pytestmark = pytest.mark.server

SHAPE = {
    "vocab_size": 128,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "initializer_range": 0.1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("moe")
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**SHAPE))
    with torch.no_grad():
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)  # as tied, for who ties them
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


class Served:
    """The server, and a learner of the same checkpoint for each test."""

    def __init__(self, folder: Path, run_dir: Path, runner: asyncio.Runner) -> None:
        self.settings = ModelSettings(path=str(folder), dtype="float32")
        server = ServerSettings(request_timeout=600)
        rollout = RolloutSettings(max_tokens=64, max_prompt_tokens=200, max_sequences=16, server=server)
        self.runner, self.version = runner, 0
        self.engine = VLLMEngine(str(folder), self.settings, rollout, AutoTokenizer.from_pretrained(folder), run_dir)
        runner.run(self.engine.start())

    def prove(
        self,
        fresh: bool = True,
        train: Callable[[nn.Module], object] = lambda _: None,
        stream: Callable[[WeightStream], WeightStream] = lambda stream: stream,
        lora: LoraSettings | None = None,
        tied: bool = False,
        engine: VLLMEngine | None = None,
    ) -> ServedProof:
        """`train`: is done to the learner's model; `stream`: to what is sent; `tied`: its output layer, by it alone."""
        model = load_model(self.settings)
        if tied:
            model.config.tie_word_embeddings = True
            model.lm_head.weight = model.model.embed_tokens.weight
        if lora:
            model = add_adapter(model, self.settings.model_copy(update={"lora": lora}))
        engine = engine or self.engine
        learner = Learner(GRPOConfig(), 1.0, model)
        self.version += 1
        whole = Learner(GRPOConfig(), 1.0, load_model(self.settings)) if tied else learner
        self.runner.run(engine.update_weights(whole.weights, self.version))
        train(model)

        async def send(version: int) -> object:
            return await engine.update_weights(stream(learner.weights), version)

        with ThreadPoolExecutor(1) as compute:
            requests = requests_for(learner.vocabulary, 200, 264, 64, 1.0)
            return self.runner.run(Prover(learner, engine, send, requests, compute).prove(self.version, fresh))


@pytest.fixture(scope="module")
def served(folder, tmp_path_factory) -> Iterator[Served]:
    with asyncio.Runner() as runner:
        served = Served(folder, tmp_path_factory.mktemp("run"), runner)
        yield served
        runner.run(served.engine.close())


class Changed:
    """A stream that sends something else than the trainer's weights, with a checksum that is right."""

    def __init__(self, stream: WeightStream, send: dict[str, Tensor] | None = None, leave_out: str = "") -> None:
        self._stream, self._send, self._leave_out = stream, send or {}, leave_out
        self._more = {name: self._send[name] for name in self._send.keys() - {spec.name for spec in stream.specs}}

    @property
    def specs(self) -> list[TensorSpec]:
        kept = [spec for spec in self._stream.specs if spec.name != self._leave_out]
        return kept + [TensorSpec(name, one.dtype, tuple(one.shape)) for name, one in self._more.items()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self._stream:
            if name != self._leave_out:
                yield name, self._send.get(name, tensor)
        yield from self._more.items()


def test_a_mixture_of_experts_is_served_as_it_is_trained(served):
    proof = served.prove()
    assert proof.tensors == 3 * 11 + 3  # of transformers, which holds a layer's experts in two
    assert proof.true.difference < 1e-5
    assert proof.perturbed.difference < 1e-4
    assert proof.true.tokens > 40
    assert served.engine.version == served.version


def test_an_expert_that_is_not_in_the_stream_is_refused_by_the_sync(served):
    name = "model.layers.1.mlp.experts.2.down_proj.weight"
    with pytest.raises((WeightSyncError, ModelError), match=r"layers\.1\.mlp\.experts"):
        served.prove(stream=lambda stream: Changed(stream, leave_out=name))


def test_an_expert_that_is_sent_as_it_was_is_named(served):
    name = "model.layers.1.mlp.experts.2.down_proj.weight"

    def stale(stream: WeightStream) -> WeightStream:
        kept.setdefault(name, next(tensor.clone() for other, tensor in served_start if other == name))
        return Changed(stream, kept)

    kept: dict[str, Tensor] = {}
    served_start = list(Learner(GRPOConfig(), 1.0, load_model(served.settings)).weights)
    with pytest.raises(ModelError, match=r"sync: model\.layers\.1\.mlp\.experts\.down_proj\[2\] did not reach"):
        served.prove(stream=stale)


def test_two_layers_that_change_places_are_named(served):
    def swapped(stream: WeightStream) -> WeightStream:
        sent = dict(stream)
        places = {"0": "2", "2": "0"}
        other = {name: re.sub(r"(?<=layers\.)[02](?=\.)", lambda found: places[found[0]], name) for name in sent}
        return Changed(stream, {name: sent[other[name]].clone() for name in sent})

    with pytest.raises(ModelError, match=r"each other's places: model\.layers\.0 and model\.layers\.2"):
        served.prove(stream=swapped)


def test_a_head_that_is_scaled_in_the_trainer_alone_is_named(served):
    def scaled(model: nn.Module) -> None:
        model.lm_head.weight.data.mul_(1.01)

    kept = load_model(served.settings).lm_head.weight
    with pytest.raises(ModelError, match=r"The head: its logits are 0\.9901 times the trainer's"):
        served.prove(fresh=True, train=scaled, stream=lambda stream: Changed(stream, {"lm_head.weight": kept}))


def test_positions_that_are_scaled_in_the_trainer_alone_are_named(served):
    with pytest.raises(ModelError, match=r"The attention: .*rope_scaling"):
        served.prove(train=lambda model: model.model.rotary_emb.inv_freq.mul_(0.5))


def test_an_output_layer_that_is_tied_in_the_trainer_alone_and_stays_behind_is_named(served):
    kept = load_model(served.settings).lm_head.weight.detach().clone()
    with pytest.raises(ModelError, match=r"sync: model\.embed_tokens\.weight did not reach"):
        served.prove(tied=True, stream=lambda stream: Changed(stream, {"lm_head.weight": kept}))


def test_a_merged_adapter_is_served_as_it_is_trained_and_a_wrong_scale_of_it_is_named(served, monkeypatch):
    lora = LoraSettings(r=4, target_modules=["q_proj", "o_proj"])
    assert served.prove(lora=lora).perturbed.equal
    merged = adapters._merged

    def doubled(layer):
        layer.scaling["default"] *= 2
        try:
            return merged(layer)
        finally:
            layer.scaling["default"] /= 2

    monkeypatch.setattr(adapters, "_check_merge", lambda *_: None)
    monkeypatch.setattr(adapters, "_merged", doubled)
    with pytest.raises(ModelError, match=r"sync: .*lora_[AB].* did not reach the server"):
        served.prove(lora=lora)


def test_a_server_that_is_named_by_its_url_is_proven_and_named(served, tmp_path):
    (url,) = served.runner.run(served.engine.ask_each([]))
    rollout = RolloutSettings(
        max_tokens=64, max_prompt_tokens=200, max_sequences=16, server=ServerSettings(urls=[url], request_timeout=600)
    )
    tokenizer = AutoTokenizer.from_pretrained(served.settings.path)
    engine = VLLMEngine(served.settings.path, served.settings, rollout, tokenizer, tmp_path)
    served.runner.run(engine.start())
    try:
        assert served.prove(fresh=False, engine=engine).true.difference < 1e-5
        kept = load_model(served.settings).model.norm.weight.detach().clone()
        with pytest.raises(ModelError, match=rf"sync: model\.norm\.weight did not reach the server at {url}"):
            served.prove(fresh=False, engine=engine, stream=lambda s: Changed(s, {"model.norm.weight": kept}))
    finally:
        served.runner.run(engine.close())


def test_a_run_that_goes_on_is_proven_with_the_weights_that_it_has(served):
    def step(model: nn.Module) -> None:
        model.model.layers[0].mlp.gate.weight.data.mul_(1.5)

    assert served.prove(fresh=False, train=step).true.difference < 1e-5
