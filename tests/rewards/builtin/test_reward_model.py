"""A sequence classifier as a reward, on random weights of few parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Qwen3Config, Qwen3ForSequenceClassification

from rewards import RewardSettings, RewardSum
from rewards.types import Reward, RewardError


@pytest.fixture(scope="module")
def classifier(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = Qwen3Config.from_pretrained(tiny_model)
    config.num_labels, config.pad_token_id = 2, AutoTokenizer.from_pretrained(tiny_model).pad_token_id
    folder = tmp_path_factory.mktemp("classifier")
    Qwen3ForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def rewards(path: Path, *completions: str, **args: Any) -> list[Reward]:
    settings = RewardSettings(name="reward_model", args={"path": str(path), **args})
    return RewardSum([settings]).score(list(completions), {"prompts": ["1 + 1 = "] * len(completions)})


def logit(path: Path, text: str, label: int = 0) -> float:
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForSequenceClassification.from_pretrained(path)
    with torch.no_grad():
        return float(model.eval()(**tokenizer(text, return_tensors="pt")).logits[0, label])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_it_is_the_logit_of_prompt_and_reply_whatever_else_is_in_the_batch(classifier: Path, batch_size: int) -> None:
    texts = ["2", "it is 3, I think", "10"]
    got = rewards(classifier, *texts, batch_size=batch_size)
    assert [one.value for one in got] == pytest.approx([logit(classifier, f"1 + 1 = {t}") for t in texts], abs=1e-4)
    assert len({one.value for one in got}) == 3
    assert rewards(classifier, "2", label=1)[0].value == pytest.approx(logit(classifier, "1 + 1 = 2", 1), abs=1e-4)


def test_a_summary_is_what_follows_the_thinking(classifier: Path) -> None:
    (got,) = rewards(classifier, "<think>1, 2</think> 2", part="summary")
    assert got.value == pytest.approx(logit(classifier, "1 + 1 = 2"), abs=1e-4)


def test_what_is_too_long_is_a_failure_and_the_others_are_scored(classifier: Path) -> None:
    short, long = rewards(classifier, "2", "2" * 200, max_tokens=50)
    assert short.value is not None
    assert long.score is not None
    assert (long.value, long.score.outcome) == (None, "error")


def test_a_score_that_is_not_finite_is_a_failure(classifier: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(classifier)
    torch.nn.init.constant_(model.score.weight, float("nan"))
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(classifier).save_pretrained(tmp_path)
    (got,) = rewards(tmp_path, "2")
    assert got.score is not None
    assert (got.value, got.score.outcome) == (None, "error")


def test_what_is_no_reward_model_is_refused(classifier: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(RewardError, match="it is no sequence classifier"):
        rewards(tiny_model, "2")
    with pytest.raises(RewardError, match=r"label: got 2, .* has 2 labels"):
        rewards(classifier, "2", label=2)
    with pytest.raises(RewardError, match="cannot be loaded"):
        rewards(tmp_path / "none", "2")
