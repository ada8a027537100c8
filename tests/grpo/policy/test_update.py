"""The training step on a tiny model: what the objective needs is computed, over the whole batch, and kept."""

import copy
import random

import pytest
import torch
from torch import nn

from grpo.config import GRPOConfig, LoraSettings, ModelSettings
from grpo.names import NORMALISERS
from grpo.policy.optim import MasterAdamW
from grpo.policy.policy import Policy
from grpo.policy.update import PolicyUpdate, TrainBatch
from grpo.types import Sample

LENGTHS = (5, 1, 12, 3, 8, 2, 7, 4)


def tiny_model(seed: int = 0) -> nn.Module:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        initializer_range=0.3,
    )
    return Qwen3ForCausalLM(config)


def samples(stale: bool = False) -> list[Sample]:
    """Two prompts, in turns."""
    rng = random.Random(1)
    prompts = [(5, 6, 7), (8, 9)]
    return [
        Sample(
            prompts[i % 2],
            tuple(rng.randrange(1, 97) for _ in range(length)),
            tuple(-4 - rng.random() for _ in range(length)),
            rng.gauss(0, 1),
            tuple(rng.choice((0, 2)) for _ in range(length)) if stale else None,
        )
        for i, length in enumerate(LENGTHS)
    ]


def update_of(model, reference=None, **settings) -> PolicyUpdate:
    config = GRPOConfig(**{"learning_rate": 1e-2, "max_grad_norm": 100.0, **settings})
    return PolicyUpdate(config, 1.0, Policy(model), MasterAdamW(model.parameters()), reference and Policy(reference))


def batch(stale: bool = False) -> TrainBatch:
    return TrainBatch(samples(stale), [1 / sum(LENGTHS)] * len(LENGTHS))


def naive_logprobs(model, sample: Sample) -> torch.Tensor:
    ids = torch.tensor([sample.prompt_ids + sample.completion_ids])
    with torch.no_grad():
        logits_LV = model(ids).logits[0, len(sample.prompt_ids) - 1 : -1]
    return torch.log_softmax(logits_LV, -1).gather(1, torch.tensor(sample.completion_ids)[:, None]).squeeze(1)


def weights(model) -> torch.Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


@pytest.mark.parametrize("loss", NORMALISERS)
def test_every_loss_trains(loss):
    model = tiny_model()
    before = weights(model)
    metrics = update_of(model, loss=loss).run(1, batch())
    assert metrics["grad_norm"] > 1e-3
    assert not torch.equal(weights(model), before)


@pytest.mark.parametrize("packing", [True, False])
def test_the_high_entropy_mask_is_of_the_whole_batch_whatever_the_micro_batches(packing):
    settings = {"loss": "dapo", "entropy_top_share": 0.2, "packing": packing}
    whole, parts, all_tokens = tiny_model(), tiny_model(), tiny_model()
    in_one = update_of(whole, **settings).run(1, batch())["grad_norm"]
    in_parts = update_of(parts, tokens_per_micro_batch=12, **settings).run(1, batch())["grad_norm"]
    assert in_parts == pytest.approx(in_one, rel=1e-5)
    assert in_one != pytest.approx(update_of(all_tokens, loss="dapo").run(1, batch())["grad_norm"], rel=0.05)


def test_kl_penalties_are_those_of_the_sampler_against_the_reference():
    model, reference = tiny_model(), tiny_model(seed=1)
    settings = {"kl_coef": 0.1, "kl_place": "reward", "kl_estimator": "k1", "tokens_per_micro_batch": 12}
    penalties = update_of(model, reference, **settings).kl_penalties(samples())
    naive = [sum(s.sampler_logprobs) - naive_logprobs(reference, s).sum().item() for s in samples()]
    assert penalties == pytest.approx(naive, abs=1e-4)


def test_the_reference_stays_or_follows_the_policy_as_kl_sync_every_says():
    for every, synced_at in ((0, []), (2, [2, 4])):
        model, reference = tiny_model(), tiny_model()
        update = update_of(model, reference, kl_coef=0.1, kl_sync_every=every)
        same = []
        for step in range(1, 5):
            update.run(step, batch())
            same += [step] if torch.equal(weights(model), weights(reference)) else []
        assert same == synced_at
        if not every:
            assert torch.equal(weights(reference), weights(tiny_model()))


def test_with_an_adapter_the_reference_is_the_model_without_it():
    from grpo.policy.adapters import add_adapter

    base = tiny_model()
    policy = add_adapter(copy.deepcopy(base), ModelSettings(path="x", lora=LoraSettings(r=4)), 0)
    update = update_of(policy, kl_coef=0.1, kl_estimator="k1", kl_corrected=True)
    update.run(1, batch())
    metrics = update.run(2, batch())
    assert abs(metrics["kl"]) > 1e-4
    penalties = update.kl_penalties(samples())
    naive = [sum(s.sampler_logprobs) - naive_logprobs(base, s).sum().item() for s in samples()]
    assert penalties == pytest.approx(naive, abs=1e-4)


def test_a_resumed_update_goes_on_as_it_would_have():
    settings = {"kl_coef": 0.1, "kl_sync_every": 2, "entropy_target": 10.0, "entropy_coef": 0.01}
    model, reference = tiny_model(), tiny_model()
    update = update_of(model, reference, **settings)
    for step in (1, 2, 3):
        update.run(step, batch())
    state = {name: tensor.clone() for name, tensor in update.tensors().items()}
    expected = update.run(4, batch())

    resumed = update_of(tiny_model(), tiny_model(), **settings)
    for name, tensor in resumed.tensors().items():
        tensor.copy_(state[name])
    resumed.loaded()
    found = resumed.run(4, batch())
    assert expected["entropy_coef"] == pytest.approx(0.01 + 3 * 0.005)
    for name in ("loss", "kl", "entropy", "entropy_coef", "grad_norm"):
        assert found[name] == expected[name]


@pytest.mark.parametrize("packing", [True, False])
def test_stale_tokens_are_counted_and_corrected_in_their_own_way(packing):
    settings = {"correction": "none", "stale_correction": "mask", "stale_cap": 1e-6, "packing": packing}
    metrics = update_of(tiny_model(), **settings).run(1, batch(stale=True))
    stale = [step > 0 for sample in samples(stale=True) for step in sample.staleness]
    assert metrics["stale"] == pytest.approx(sum(stale) / sum(LENGTHS))
    assert metrics["corrected_stale"] == 1.0  # no ratio is below the cap, so every stale token is dropped
    assert metrics["corrected_fresh"] == 0.0
    assert metrics["ess"] == pytest.approx(1 - metrics["stale"])  # of weights that are 0 or 1
    fresh = update_of(tiny_model(), **settings).run(1, batch())
    assert "corrected_stale" not in fresh


def test_a_step_that_does_not_fit_into_memory_names_the_settings_that_help(monkeypatch):
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    update = update_of(tiny_model())
    monkeypatch.setattr("grpo.policy.policy.completion_logprobs", full)
    with pytest.raises(MemoryError, match=r"step 3 .*\(CUDA out of memory\): lower train\.tokens_per_micro"):
        update.run(3, batch())
