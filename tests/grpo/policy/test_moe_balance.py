"""Balance of experts: transformers' own loss over the trained tokens, and DeepSeek-V3's bias."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from benchmarks.families import config_of
from grpo.config import GRPOConfig, ModelError, ModelSettings
from grpo.policy.compare import requests_for
from grpo.policy.learner import Learner
from grpo.policy.load import load_model
from grpo.policy.proof import Prover
from grpo.policy.update import TrainBatch
from grpo.rollout.local import TransformersEngine
from grpo.types import Sample

IDS = {"vocab_size": 97, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
SAMPLES = [
    Sample((5, 6, 7), (8, 9, 10, 11, 12, 13), (-4.0,) * 6, 1.0),
    Sample((5, 6, 7), (14, 15, 3), (-4.0,) * 3, -1.0, None, (True, False, True)),
    Sample((40, 41), (8, 9, 10, 11), (-4.0,) * 4, 0.5),
]
BATCH = TrainBatch(SAMPLES, [0.1] * 3)
BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_model) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("balance")
    for kind in ("qwen3_moe", "deepseek_v3", "llama"):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config_of(kind, IDS)).save_pretrained(root / kind)
        AutoTokenizer.from_pretrained(tiny_model).save_pretrained(root / kind)
    return {kind: root / kind for kind in ("qwen3_moe", "deepseek_v3", "llama")}


def learner_of(folder: Path, **config: Any) -> Learner:
    model = load_model(ModelSettings(path=str(folder), dtype="float32"))
    return Learner(GRPOConfig(**{"max_grad_norm": 1e9, **config}), 1.0, model)


def gradients(learner: Learner) -> torch.Tensor:
    return gradients_of(learner.model)


def gradients_of(model: Any) -> torch.Tensor:
    return torch.cat(
        [torch.zeros_like(one).flatten() if one.grad is None else one.grad.flatten() for one in model.parameters()]
    )


def naive_loss(folder: Path) -> tuple[float, torch.Tensor]:
    """transformers' function of the logits of all trained positions, and its gradient."""
    model = load_model(ModelSettings(path=str(folder), dtype="float32"))
    of_layers: list[list[torch.Tensor]] = [[], []]
    for sample in SAMPLES:
        ids = torch.tensor([sample.prompt_ids + sample.completion_ids])
        at = sample.of_trained(range(len(sample.prompt_ids) - 1, sample.length - 1))
        logits = model(ids, output_router_logits=True).router_logits
        for layer, one in zip(of_layers, logits, strict=True):
            layer.append(one[at])
    loss = load_balancing_loss_func(tuple(torch.cat(one) for one in of_layers), 4, 2)
    loss.backward()
    return loss.item(), gradients_of(model)


@pytest.mark.parametrize(("packing", "tokens"), [(True, 8192), (False, 8192), (True, 8), (False, 9)])
def test_it_is_transformers_loss_of_the_whole_batch_packed_as_padded(folders, packing, tokens):
    expected, gradient = naive_loss(folders["qwen3_moe"])
    with_it, without = (
        learner_of(folders["qwen3_moe"], packing=packing, tokens_per_micro_batch=tokens, router_aux_loss_coef=coef)
        for coef in (0.7, 0.0)
    )
    metrics = with_it.update(1, BATCH)
    assert "router_loss" not in without.update(1, BATCH)
    assert metrics["router_loss"] == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close((gradients(with_it) - gradients(without)) / 0.7, gradient, atol=1e-5, rtol=1e-4)


def test_it_evens_the_load(folders):
    learner = learner_of(folders["qwen3_moe"], router_aux_loss_coef=10.0, learning_rate=3e-3)
    loads = [learner.update(step, BATCH) for step in range(1, 13)]
    assert loads[-1]["router_loss"] < loads[0]["router_loss"] - 0.05
    assert loads[-1]["expert_load_max"] <= loads[0]["expert_load_max"]


def naive_load(learner: Learner) -> torch.Tensor:
    """Choices of each expert of layer 1 at the trained positions, by a plain forward."""
    found: list[torch.Tensor] = []
    hook = learner.model.model.layers[1].mlp.gate.register_forward_hook(lambda _, __, out: found.append(out[2]))
    loads = torch.zeros(4, dtype=torch.long)
    learner.model.set_attn_implementation("sdpa")
    for sample in SAMPLES:
        at = sample.of_trained(range(len(sample.prompt_ids) - 1, sample.length - 1))
        learner.model(torch.tensor([sample.prompt_ids + sample.completion_ids]))
        loads += torch.bincount(found[-1][at].flatten(), minlength=4)
    hook.remove()
    return loads


@pytest.mark.parametrize("packing", [True, False])
def test_the_bias_moves_against_the_load_of_its_layer(folders, packing):
    load = naive_load(learner_of(folders["deepseek_v3"]))
    learner = learner_of(
        folders["deepseek_v3"], packing=packing, router_bias_update_rate=0.01, tokens_per_micro_batch=12
    )
    metrics = learner.update(1, BATCH)
    bias = learner.model.get_buffer(BIAS)
    assert torch.equal(bias, 0.01 * torch.sign(load.float().mean() - load))
    assert metrics["expert_load_max"] == pytest.approx((load.max() / load.float().mean()).item())
    assert learner.model.get_buffer(BIAS) is learner._steered[BIAS]


def test_a_checkpoint_keeps_the_bias_and_a_run_that_goes_on_has_it(folders, tmp_path):
    settings = {"router_bias_update_rate": 0.01, "learning_rate": 1e-3}
    learner = learner_of(folders["deepseek_v3"], **settings)
    learner.update(1, BATCH)
    kept = learner.model.get_buffer(BIAS).clone()
    write = learner.save(tmp_path / "model", tmp_path / "state")
    learner.update(2, BATCH)  # while it is written
    write()
    assert torch.equal(load_model(ModelSettings(path=str(tmp_path / "model"), dtype="float32")).get_buffer(BIAS), kept)
    again = learner_of(folders["deepseek_v3"], **settings)
    again.load_state(tmp_path / "state")
    assert torch.equal(again.model.get_buffer(BIAS), kept)
    again.update(2, BATCH)
    assert torch.equal(again.model.get_buffer(BIAS), learner.model.get_buffer(BIAS))


class Forgets(TransformersEngine):
    """Serves a bias as it was, whatever it is sent."""

    stale = True

    @torch.no_grad()
    def _load(self, *args):
        before = self._model.get_buffer(BIAS).clone()
        report = super()._load(*args)
        if self.stale:
            self._model.get_buffer(BIAS).copy_(before)
        return report


@pytest.mark.parametrize("start", [0.0, 0.003])
def test_a_bias_that_is_not_sent_is_named_before_the_first_step(folders, start, tmp_path):
    model = load_model(ModelSettings(path=str(folders["deepseek_v3"]), dtype="float32"))
    model.get_buffer(BIAS).fill_(start)
    model.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folders["deepseek_v3"])
    learner = learner_of(tmp_path, router_bias_update_rate=0.01)
    engine = Forgets(ModelSettings(path=str(tmp_path), dtype="float32"), tokenizer, 16)

    async def proven():
        await engine.start()
        requests = requests_for(learner.vocabulary, 60, 80, 8, 1.0)
        with ThreadPoolExecutor(1) as compute:
            prover = Prover(learner, engine, lambda v: engine.update_weights(learner.weights, v), requests, compute)
            return await prover.prove(0, fresh=True)

    with pytest.raises(ModelError, match=rf"sync: {BIAS} did not reach the server"):
        asyncio.run(proven())
    engine.stale = False
    assert asyncio.run(proven()).perturbed.equal
    assert (learner.model.get_buffer(BIAS) == start).all()


@pytest.mark.parametrize(
    ("kind", "settings", "why"),
    [
        ("deepseek_v3", {"router_aux_loss_coef": 0.1}, "deepseek_v3 has no load-balancing loss .*router_bias_update"),
        ("qwen3_moe", {"router_bias_update_rate": 0.1}, "qwen3_moe has 0 biases .*router_aux_loss_coef"),
        ("llama", {"router_aux_loss_coef": 0.1}, "llama has no router"),
        ("llama", {"router_bias_update_rate": 0.1}, "llama has no router"),
    ],
)
def test_what_a_model_does_not_have_is_refused(folders, kind, settings, why):
    with pytest.raises(ModelError, match=why):
        learner_of(folders[kind], **settings)
