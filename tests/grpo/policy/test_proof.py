"""Sabotage: whatever keeps the server from computing what is trained is caught before the first step, and named."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from grpo.config import GRPOConfig, LoraSettings, ModelError, ModelSettings
from grpo.policy import adapters
from grpo.policy.adapters import add_adapter
from grpo.policy.compare import requests_for
from grpo.policy.learner import Learner
from grpo.policy.load import load_model
from grpo.policy.proof import Prover, ServedProof, kind_of
from grpo.policy.update import TrainBatch
from grpo.rollout.local import TransformersEngine
from grpo.types import Sample

SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "initializer_range": 0.2,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_model) -> dict[str, Path]:
    torch.manual_seed(0)
    models = {
        "llama": LlamaForCausalLM(LlamaConfig(**SIZES)),
        "tied": LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
        "dropout": LlamaForCausalLM(LlamaConfig(**SIZES, attention_dropout=0.1)),
        "moe": Qwen3MoeForCausalLM(
            Qwen3MoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, head_dim=32)
        ),
    }
    root = tmp_path_factory.mktemp("proof")
    for name, model in models.items():
        model.save_pretrained(root / name)
        AutoTokenizer.from_pretrained(tiny_model).save_pretrained(root / name)
    return {name: root / name for name in models}


class Sabotaged(TransformersEngine):
    """An engine in process that serves otherwise than it was told to.

    Args:
        start: is done to its model once that is loaded.
        load: is done to its model after each sync, whose checksum has been right; it gets the weights before the sync.
    """

    def __init__(
        self,
        folder: Path,
        start: Callable[[nn.Module], object] = lambda _: None,
        load: Callable[[nn.Module, dict[str, torch.Tensor]], object] = lambda *_: None,
        dtype: str = "float32",
    ) -> None:
        settings = ModelSettings(path=str(folder), dtype=dtype)
        super().__init__(settings, AutoTokenizer.from_pretrained(folder), 16)
        self._at_start, self._after_load = start, load

    async def start(self) -> None:
        await super().start()
        self._at_start(self._model)

    @torch.no_grad()
    def _load(self, *args):
        before = {name: one.clone() for name, one in self._model.named_parameters()}
        report = super()._load(*args)
        self._after_load(self._model, before)
        return report


class Both(Sabotaged):
    """Two servers; the second is `other`."""

    def __init__(self, folder: Path, other: Sabotaged) -> None:
        super().__init__(folder)
        self._other = other

    async def start(self) -> None:
        await asyncio.gather(super().start(), self._other.start())

    async def ask_each(self, requests):
        (first,), (second,) = [
            list((await TransformersEngine.ask_each(one, requests)).values()) for one in (self, self._other)
        ]
        return {"http://first": first, "http://second": second}

    async def update_weights(self, stream, version):
        await self._other.update_weights(stream, version)
        return await super().update_weights(stream, version)


def prove(
    folder: Path,
    engine: TransformersEngine,
    lora: LoraSettings | None = None,
    dtype: str = "float32",
    resumed: bool = False,
    **settings,
) -> ServedProof:
    """`resumed`: the trainer has taken steps since the checkpoint that the engine has loaded."""
    model_settings = ModelSettings(path=str(folder), dtype=dtype, lora=lora)
    model = load_model(model_settings)
    model = add_adapter(model, model_settings) if lora else model
    learner = Learner(GRPOConfig(**settings), 1.0, model)
    if resumed:
        sample = Sample((5, 6, 7), (8, 9, 10, 11), (-4.0,) * 4, 1.0)
        learner.update(1, TrainBatch([sample], [0.25]))
    before = {name: one.detach().clone() for name, one in model.named_parameters()}

    async def proven() -> ServedProof:
        await engine.start()
        requests = requests_for(learner.vocabulary, 200, 300, 64, 1.0)
        with ThreadPoolExecutor(1) as compute:
            prover = Prover(learner, engine, lambda v: engine.update_weights(learner.weights, v), requests, compute)
            return await prover.prove(3 if resumed else 0, fresh=not resumed)

    try:
        return asyncio.run(proven())
    finally:
        assert all(torch.equal(one, before[name]) for name, one in model.named_parameters())  # to the bit


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LoraSettings(r=4)])
@pytest.mark.parametrize("kind", ["llama", "tied", "dropout", "moe"])
def test_an_engine_that_serves_what_is_trained_is_proven_to(folders, kind, lora):
    engine = Sabotaged(folders[kind])
    proof = prove(folders[kind], engine, lora)
    assert proof.perturbed.equal
    assert proof.true.difference < 1e-5
    assert proof.perturbed.noise > 0
    assert engine.version == 0


@pytest.mark.slow
def test_an_expert_that_is_not_sent_is_named(folders):
    def forget(model, before):
        name = "model.layers.1.mlp.experts.down_proj"
        model.get_parameter(name)[2] = before[name][2]

    with pytest.raises(ModelError, match=r"sync: model\.layers\.1\.mlp\.experts\.down_proj\[2\] did not reach"):
        prove(folders["moe"], Sabotaged(folders["moe"], load=forget))


@pytest.mark.parametrize("name", ["model.layers.1.self_attn.k_proj.weight", "model.norm.weight", "lm_head.weight"])
def test_any_tensor_that_is_not_sent_is_named(folders, name):
    def forget(model, before):
        model.get_parameter(name).copy_(before[name])

    with pytest.raises(ModelError, match=f"sync: {name} did not reach the server") as refused:
        prove(folders["llama"], Sabotaged(folders["llama"], load=forget))
    assert "try another version of transformers" in str(refused.value)  # this engine is no server


def test_an_output_layer_that_stays_behind_the_embedding_it_is_tied_to_is_named(folders):
    def stale(model):
        kept = model.lm_head.weight.detach().clone()
        model.lm_head.register_forward_hook(lambda _, args, __: nn.functional.linear(args[0], kept))

    with pytest.raises(ModelError, match=r"sync: model\.embed_tokens\.weight did not reach the server"):
        prove(folders["tied"], Sabotaged(folders["tied"], start=stale))


def test_a_head_that_is_scaled_by_a_hundredth_is_named(folders):
    def scaled(model):
        model.lm_head.register_forward_hook(lambda _, __, out: out * 1.01)

    with pytest.raises(ModelError, match=r"The head: its logits are 1\.01 times the trainer's"):
        prove(folders["llama"], Sabotaged(folders["llama"], start=scaled))


def test_positions_that_are_scaled_on_one_side_only_are_named(folders):
    def scaled(model):
        model.model.rotary_emb.inv_freq.mul_(0.5)

    with pytest.raises(ModelError, match=r"The attention: .* rope_scaling"):
        prove(folders["llama"], Sabotaged(folders["llama"], start=scaled))


def test_a_norm_of_another_kind_is_named(folders):
    def shifted(model):
        model.model.layers[1].post_attention_layernorm.variance_epsilon = 0.1

    with pytest.raises(ModelError, match=r"The layers, not the attention alone"):
        prove(folders["llama"], Sabotaged(folders["llama"], start=shifted))


def test_two_layers_that_change_places_are_caught(folders):
    def swap(model, _):
        layers = model.model.layers
        for one, other in zip(layers[0].parameters(), layers[2].parameters(), strict=True):
            kept = one.clone()
            one.copy_(other)
            other.copy_(kept)

    with pytest.raises(ModelError, match=r"sync: .* each other's places.*model\.layers\.0 and model\.layers\.2"):
        prove(folders["llama"], Sabotaged(folders["llama"], load=swap))


@pytest.mark.slow
def test_a_wrong_scale_of_lora_is_named(folders, monkeypatch):
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
        prove(folders["llama"], Sabotaged(folders["llama"]), LoraSettings(r=4))


def forget_norm(model, before):
    model.model.norm.weight.copy_(before["model.norm.weight"])


NORM = r"sync: model\.norm\.weight did not reach the server at "


def test_of_several_servers_the_one_that_serves_something_else_is_named(folders):
    proof = prove(folders["llama"], Both(folders["llama"], Sabotaged(folders["llama"])))
    assert proof.servers == 2
    with pytest.raises(ModelError, match=f"{NORM}http://second"):
        prove(folders["llama"], Both(folders["llama"], Sabotaged(folders["llama"], load=forget_norm)))


def test_a_run_that_goes_on_is_proven_with_the_weights_that_it_has(folders):
    engine = Sabotaged(folders["llama"])
    assert prove(folders["llama"], engine, resumed=True, learning_rate=1e-2).true.equal
    assert engine.version == 3
    with pytest.raises(ModelError, match="does not compute what is trained: with these very weights"):
        prove(folders["llama"], Sabotaged(folders["llama"], load=forget_norm), resumed=True, learning_rate=1e-2)


def test_in_bf16_too_what_is_not_sent_is_named(folders):
    proof = prove(folders["llama"], Sabotaged(folders["llama"], dtype="bfloat16"), dtype="bfloat16")
    assert 1e-3 < proof.true.noise < 0.1
    with pytest.raises(ModelError, match=NORM):
        prove(folders["llama"], Sabotaged(folders["llama"], load=forget_norm, dtype="bfloat16"), dtype="bfloat16")


def test_dropout_that_nobody_asked_for_is_named(folders, monkeypatch):
    monkeypatch.setattr("grpo.policy.forward.training_mode", lambda policy: policy.train())
    with pytest.raises(ModelError, match=r"dropout: .*train\.dropout: true"):
        prove(folders["dropout"], Sabotaged(folders["dropout"]), packing=False)


def test_dropout_that_was_asked_for_is_proven_without(folders):
    proof = prove(folders["dropout"], Sabotaged(folders["dropout"]), dropout=True)
    assert proof.true.equal


def test_what_is_asked_fits_what_the_server_takes():
    for max_prompt, longest, max_tokens in [(1, 2, 1), (16, 40, 300), (512, 300, 256), (2, 3, 2)]:
        for request in requests_for(97, max_prompt, longest, max_tokens, 0.7):
            length = len(request.prompt.token_ids)
            assert 1 <= length <= max_prompt
            assert 1 <= request.sampling.max_tokens <= max_tokens
            assert length + request.sampling.max_tokens <= longest
            assert request.sampling.temperature == 0.7


def test_a_kind_is_a_name_without_its_layer():
    assert kind_of("model.layers.12.mlp.experts.3.w1.weight") == "model.layers.*.mlp.experts.*.w1.weight"
