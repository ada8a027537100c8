"""Loading a policy."""

from __future__ import annotations

import pytest

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
