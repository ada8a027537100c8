"""Loading a policy, and what of it is served."""

from __future__ import annotations

import pytest
import torch

from grpo.config import LoraSettings, ModelError, ModelSettings
from grpo.model import ServedWeights, add_lora, load_model, load_tokenizer


@pytest.fixture
def settings(tiny_model):
    return ModelSettings(path=str(tiny_model), dtype="float32")


def test_served_weights_are_the_checkpoints_names_and_values(settings):
    model = load_model(settings)
    served = ServedWeights(model)
    assert set(served) == {name for name, _ in model.named_parameters()}
    assert all(torch.equal(served[name], p) for name, p in model.named_parameters())


def test_a_lora_policy_is_served_as_peft_merges_it_and_stays_as_it_was(settings):
    model = add_lora(load_model(settings), LoraSettings(r=4, alpha=8))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    frozen = {name: p.clone() for name, p in model.named_parameters()}
    served = {name: tensor.clone() for name, tensor in ServedWeights(model).items()}
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters())
    merged = model.merge_and_unload()
    assert set(served) == {name for name, _ in merged.named_parameters()}
    for name, parameter in merged.named_parameters():
        torch.testing.assert_close(served[name], parameter, atol=1e-6, rtol=0)
    assert any(not torch.equal(served[name], p) for name, p in load_model(settings).named_parameters())


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_missing_folder_is_named(load, tmp_path):
    with pytest.raises(ModelError, match=r"nowhere is not a folder; expected a transformers checkpoint folder"):
        load(ModelSettings(path=str(tmp_path / "nowhere")))


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_model(ModelSettings(path=str(tmp_path)))


def test_a_hub_id_that_cannot_be_reached_asks_for_a_local_folder(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"no-such-org/no-such-model cannot be loaded .* model\.path=DIR"):
        load_model(ModelSettings(path="no-such-org/no-such-model"))
