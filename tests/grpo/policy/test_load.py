"""Loading a policy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from grpo.config import ModelError, ModelSettings
from grpo.policy.load import load_model, load_tokenizer


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


def cut(name: str):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:5000])


def write(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def configured(**values):
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return change


def without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("load", "damage", "reason"),
    [
        (load_model, cut("model.safetensors"), "incomplete metadata"),
        (load_model, write("model.safetensors", b""), "header too small"),
        (load_model, pickled, "Weights only load failed"),
        (load_model, without_a_weight, r"lacks 1 weights .* model\.layers\.1\.mlp\.up_proj\.weight"),
        (
            load_model,
            configured(intermediate_size=384),
            r"lacks 12 weights in the shape of its config\.json",
        ),
        (load_model, configured(num_attention_heads=0), "modulo by zero"),
        (load_model, configured(model_type="nonsense"), "does not recognize this architecture"),
        (load_model, configured(model_type="t5"), "Unrecognized configuration class"),
        (load_tokenizer, configured(hidden_size="wide"), "expected int, got str"),
        (load_tokenizer, write("config.json", b"[]"), "must be a mapping"),
        (load_tokenizer, write("tokenizer.json", b"{"), "line 1 column 2"),
        (load_tokenizer, write("tokenizer.json", b"{}"), "added_tokens"),
    ],
)
def test_a_model_that_is_damaged_or_no_causal_one_is_refused_by_name(load, damage, reason, tiny_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    damage(folder)
    with pytest.raises(ModelError, match=reason) as refused:
        load(ModelSettings(path=str(folder), dtype="float32"))
    assert str(refused.value).startswith(f"model.path: {folder} ")


def test_a_model_for_which_there_is_no_memory_is_refused(tiny_model, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", full)
    with pytest.raises(ModelError, match=r"CUDA out of memory.*use model\.dtype: bfloat16"):
        load_model(ModelSettings(path=str(tiny_model)))
