"""Experts: found, recorded where they are sampled, replayed where they are trained."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.families import config_of
from grpo.config import GRPOConfig, ModelError, ModelSettings, RolloutSettings, ServerSettings
from grpo.names import Quantization
from grpo.policy.learner import Learner
from grpo.policy.load import load_model
from grpo.policy.packing.pack import pack
from grpo.policy.packing.pad import pad
from grpo.policy.routing import OWN, Routing, find_routers
from grpo.policy.update import TrainBatch
from grpo.rollout.engine import RolloutError
from grpo.rollout.local import TransformersEngine
from grpo.rollout.vllm.client import read_answer
from grpo.rollout.vllm.gpu_only import ROUNDING
from grpo.rollout.vllm.placement import Placement
from grpo.rollout.vllm.server import command_line
from grpo.types import Completion, Prompt, RolloutRequest, Sample, Sampling
from recipes.jobs.train import run
from recipes.schema.load import load_recipe

IDS = {"vocab_size": 97, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
KINDS = ("qwen3_moe", "deepseek_v3", "gpt_oss")


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config_of(kind, IDS)).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_model) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("routing")
    for kind in (*KINDS, "llama"):
        model_of(kind).save_pretrained(root / kind)
        AutoTokenizer.from_pretrained(tiny_model).save_pretrained(root / kind)
    return {kind: root / kind for kind in (*KINDS, "llama")}


def learner_of(folder: Path, replay: bool = True, **config: Any) -> Learner:
    model = load_model(ModelSettings(path=str(folder), dtype="float32"))
    return Learner(GRPOConfig(**config), 1.0, model, routing_replay=replay)


def sampled(folder: Path, dtype: str = "float32", n: int = 3, lengths: tuple[int, ...] = (9, 4)) -> list[Sample]:
    engine = TransformersEngine(
        ModelSettings(path=str(folder), dtype=dtype), AutoTokenizer.from_pretrained(folder), max_sequences=16
    )
    prompts = [Prompt(str(i), "", tuple(range(5 + i, 5 + i + length)), "") for i, length in enumerate(lengths)]
    requests = [RolloutRequest(prompt, n, Sampling(7), seed=i, experts=True) for i, prompt in enumerate(prompts)]

    async def groups() -> list:
        await engine.start()
        return [group async for _, group in engine.generate(requests)]

    return [
        Sample(group.prompt.token_ids, one.token_ids, one.logprobs, 1.0 - 2 * (i % 2), experts=one.experts)
        for group in asyncio.run(groups())
        for i, one in enumerate(group.completions)
    ]


def naive_experts(model: nn.Module, sample: Sample) -> torch.Tensor:
    """Of all tokens but the last, (tokens, layers, k), by a plain forward whose routers are listened to."""
    found: dict[int, torch.Tensor] = {}
    for router in find_routers(model):
        module = model.get_submodule(router.name)
        module.register_forward_hook(lambda _, __, out, layer=router.layer: found.update({layer: out[2]}))
    with torch.no_grad():
        model(torch.tensor([sample.prompt_ids + sample.completion_ids[:-1]]))
    n_layers = model.config.num_hidden_layers
    experts = torch.zeros(sample.length - 1, n_layers, next(iter(found.values())).shape[1], dtype=torch.long)
    for layer, chosen in found.items():
        experts[:, layer] = chosen
    return experts


def test_routers_are_found_by_what_they_do():
    routers = find_routers(model_of("deepseek_v3"))  # its first layer is dense; its router calls topk three times
    assert [(one.name, one.layer, one.experts, one.top_k) for one in routers] == [("model.layers.1.mlp.gate", 1, 4, 2)]
    assert [one.layer for one in find_routers(model_of("jamba"))] == [1]  # the choice is its block's, not its router's
    assert find_routers(model_of("llama")) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_records_what_the_models_own_forward_chooses(folders, kind):
    model = load_model(ModelSettings(path=str(folders[kind]), dtype="float32"))
    for sample in sampled(folders[kind]):
        expected = naive_experts(deepcopy(model), sample)
        recorded = torch.from_numpy(sample.experts).long()
        assert recorded.shape == expected.shape
        assert torch.equal(recorded.sort(-1).values, expected.sort(-1).values)


@pytest.mark.parametrize("kind", KINDS)
def test_a_replay_of_its_own_choice_changes_nothing_packed_or_padded(folders, kind):
    samples = sampled(folders[kind])
    for packing in (True, False):
        learner = learner_of(folders[kind], packing=packing)
        plain = learner.measured([replace(sample, experts=None) for sample in samples])
        micro = (pack if packing else pad)(samples, [1.0] * len(samples))
        assert micro.experts_NLK.shape[0] == micro.input_ids_RL.numel()
        logp_T = learner._policy.measured(micro, 1.0)[0]
        torch.testing.assert_close(logp_T, torch.cat(plain), atol=1e-5, rtol=0)
        different, given = learner._policy.routing.difference().tolist()
        assert (different, given > 0) == (0, True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_replay_of_another_choice_is_a_model_that_chooses_so_packed_as_padded(folders, kind):
    learner = learner_of(folders[kind])
    experts = np.array([3, 0])
    samples = [
        replace(sample, experts=np.broadcast_to(experts, sample.experts.shape)) for sample in sampled(folders[kind])
    ]
    packed_T = learner._policy.measured(pack(samples, [1.0] * len(samples)), 1.0)[0]
    padded = learner_of(folders[kind], packing=False)
    padded_T = padded._policy.measured(pad(samples, [1.0] * len(samples)), 1.0)[0]
    torch.testing.assert_close(packed_T, padded_T, atol=1e-5, rtol=0)
    routers = learner._policy.routing
    assert all((made == torch.from_numpy(experts)).all(-1).float().mean() > 0.5 for made in routers.made.values())
    plain_T = torch.cat(learner.measured([replace(sample, experts=None) for sample in samples]))
    assert (packed_T - plain_T).abs().max() > 1e-3
    assert learner._policy.routing.difference()[0] > 0


def test_the_weights_of_a_given_choice_have_their_gradient(folders):
    learner = learner_of(folders["qwen3_moe"])
    samples = [replace(s, experts=np.full_like(s.experts, 1) * np.array([1, 2])) for s in sampled(folders["qwen3_moe"])]
    router = learner.model.model.layers[0].mlp.gate
    learner._policy(pack(samples, [1.0] * len(samples)), 1.0)[0].sum().backward()
    assert router.weight.grad[1].abs().sum() > 0
    hidden = torch.randn(5, 128)
    learner._policy.routing.given = torch.tensor([1, 2]).expand(5, 2, 2)
    _, weights, indices = router(hidden)
    torch.testing.assert_close(weights, nn.functional.linear(hidden, router.weight).softmax(-1)[:, [1, 2]])
    assert indices.tolist() == [[1, 2]] * 5


def test_where_nothing_is_given_the_router_chooses(folders):
    routing = learner_of(folders["qwen3_moe"])._policy.routing
    samples = sampled(folders["qwen3_moe"])
    micro = pack([samples[0], replace(samples[1], experts=None)], [1.0, 1.0])
    prompt, first = len(samples[0].prompt_ids), len(samples[0].completion_ids) - 1
    assert (micro.experts_NLK[: prompt + first] != OWN).all()
    assert (micro.experts_NLK[prompt + first :] == OWN).all()
    assert pack([replace(samples[1], experts=None)], [1.0]).experts_NLK is None
    assert routing.difference().tolist() == [0, 0]


def test_recomputed_layers_route_as_the_first_time(folders):
    samples = [replace(s, experts=np.broadcast_to([2, 3], s.experts.shape)) for s in sampled(folders["qwen3_moe"])]
    norms = []
    for checkpointing in (False, True):
        learner = learner_of(folders["qwen3_moe"], gradient_checkpointing=checkpointing, router_aux_loss_coef=0.1)
        if checkpointing:
            from grpo.policy.load import enable_gradient_checkpointing

            enable_gradient_checkpointing(learner.model)
        norms.append(learner.update(1, TrainBatch(samples, [0.1] * len(samples)))["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_an_update_says_how_many_choices_differ(folders):
    samples = [replace(s, experts=np.broadcast_to([2, 3], s.experts.shape)) for s in sampled(folders["qwen3_moe"])]
    metrics = learner_of(folders["qwen3_moe"]).update(1, TrainBatch(samples, [0.1] * len(samples)))
    assert 0.1 < metrics["routing_diff"] < 0.9
    plain = [replace(sample, experts=None) for sample in samples]
    assert "routing_diff" not in learner_of(folders["qwen3_moe"], replay=False).update(1, TrainBatch(plain, [0.1] * 6))


@pytest.mark.parametrize("change", [lambda x: x[:, :1], lambda x: x[..., :1], lambda x: x + 3, lambda x: x - 4])
def test_experts_of_another_model_are_refused(folders, change):
    samples = [replace(sample, experts=change(sample.experts)) for sample in sampled(folders["qwen3_moe"])]
    with pytest.raises(ModelError, match=r"routing_replay: .* expected \(2, 2\) .* below 4"):
        learner_of(folders["qwen3_moe"]).update(1, TrainBatch(samples, [0.1] * len(samples)))


def test_a_model_without_routers_is_refused(folders):
    with pytest.raises(
        ModelError, match=r"llama has no router that chooses experts: leave out rollout\.routing_replay"
    ):
        learner_of(folders["llama"])
    with pytest.raises(ModelError, match="llama has no router"):
        sampled(folders["llama"])
    with pytest.raises(ModelError, match="llama has no router"):
        Routing(model_of("llama"), [])


# -- A server's choice ------------------------------------------------------------------------------------------------


class Digits:
    def decode(self, token_ids: Any, skip_special_tokens: bool) -> str:
        return "".join(map(str, token_ids))


def answer(experts: np.ndarray | str | None) -> dict[str, Any]:
    if isinstance(experts, np.ndarray):  # as vLLM's numpy2base64
        buffer = io.BytesIO()
        np.save(buffer, experts)
        experts = base64.b64encode(buffer.getvalue()).decode("ascii")
    choice = {
        "finish_reason": "stop",
        "token_ids": [3, 4],
        "logprobs": {"content": [{"token_id": 3, "logprob": -0.5}, {"token_id": 4, "logprob": -0.1}]},
        "weight_versions": [{"start": 0, "end": 2, "version": "0"}],
        "routed_experts": experts,
    }
    return {"choices": [choice]}


def asked(experts: bool = True) -> RolloutRequest:
    return RolloutRequest(Prompt("p", "", (5, 6, 7), ""), 1, Sampling(4), experts=experts)


def read(experts: Any, ask: bool = True) -> tuple[list[Completion], dict[str, int]]:
    completions, failures = read_answer(answer(experts), asked(ask), Digits())
    return completions, dict(failures)


def test_the_experts_of_a_servers_answer_are_read():
    experts = np.arange(4 * 3 * 2, dtype=np.uint8).reshape(4, 3, 2)
    (completion,), failures = read(experts)
    assert not failures
    assert np.array_equal(completion.experts, experts)
    assert read(experts, ask=False)[0][0].experts is None


@pytest.mark.parametrize("experts", [np.zeros((5, 3, 2), np.uint8), np.zeros((4, 3)), np.zeros((4, 3, 2)), "ab#", ""])
def test_experts_that_are_none_are_malformed(experts):
    assert read(experts) == ([], {"malformed": 1})


def test_a_server_that_returns_no_experts_is_refused():
    with pytest.raises(RolloutError, match=r"routing_replay: the server does not say .*--enable-return-routed-experts"):
        read(None)


@pytest.mark.parametrize(
    ("rollout", "argument", "why"),
    [
        ({"routing_replay": True}, "--enable-return-routed-experts", r"routing_replay: vLLM says .* GPU alone"),
        (
            {"server": ServerSettings(quantization="fp8")},
            "--quantization fp8",
            r"quantization: vLLM rounds to fp8 on a",
        ),
    ],
)
def test_what_vllm_does_on_a_gpu_alone_is_asked_of_it_there_and_refused_elsewhere(folders, rollout, argument, why):
    settings, folder = RolloutSettings(**rollout), str(folders["qwen3_moe"])
    line = command_line(folder, ModelSettings(path=folder), settings, Placement((0,), "nccl"))
    assert argument in " ".join(line)
    with pytest.raises(RolloutError, match=why):
        command_line(folder, ModelSettings(path=folder), settings, Placement((), "shm"))


def test_what_a_server_rounds_is_in_the_noise_of_its_proof(folders):
    assert set(ROUNDING) == set(get_args(Quantization))
    learner = learner_of(folders["qwen3_moe"], replay=False)
    samples = [replace(sample, experts=None) for sample in sampled(folders["qwen3_moe"])]
    noise = [learner.noise(samples, eps) for eps in (None, ROUNDING["int8_per_channel_weight_only"], ROUNDING["fp8"])]
    assert noise[0] < 1e-4 < noise[1] < noise[2] < 1


@pytest.mark.slow
def test_a_run_replays_what_its_engine_chose(folders, tmp_path):
    settings = [
        f"model={{path: {folders['qwen3_moe']}, dtype: float32}}",
        "rollout={engine: transformers, routing_replay: true, group_size: 4, prompts_per_step: 2, max_tokens: 6}",
        "train={steps: 2, learning_rate: 1.0e-2, router_aux_loss_coef: 0.01, kl_coef: 0.1, control: random}",
        "rewards=[{name: accuracy}]",
        "eval.problems=4",
    ]
    assert run(load_recipe("tiny_arithmetic_cpu", settings), "test", tmp_path / "out", False) == 0
    steps = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert len(steps) == 2
    for step in steps:
        assert step["routing_diff"] < 0.01  # of the same model in fp32
        assert step["logprob_diff"] < 1e-4
        assert step["router_loss"] > 1
