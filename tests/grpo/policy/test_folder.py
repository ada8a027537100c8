"""What a model's name means, wherever one is given."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from grpo.config import ModelError, ModelSettings, RolloutSettings
from grpo.policy.folder import model_source
from grpo.policy.load import load_config, load_model, load_tokenizer, max_positions
from grpo.rollout.vllm.serve import serve
from grpo.rollout.vllm.server import build
from recipes.jobs.eval_model import EvalError, own_model
from recipes.schema.load import TINY, load_recipe, model_settings, resolve_model
from recipes.schema.plan import model_size


def build_server(path: str) -> None:
    build(path, ModelSettings(path=path), RolloutSettings(), Path("server.log"))


def evaluated(path: str) -> None:
    own_model(path, None)


USERS = [
    *(lambda path, use=use: use(ModelSettings(path=path)) for use in (load_config, load_tokenizer, load_model)),
    *(lambda path, use=use: use(ModelSettings(path=path)) for use in (max_positions, model_size)),
    build_server,
    evaluated,
]


@pytest.fixture
def home(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home and working folder: a model in ./model and one in ./owner/name, and a folder without one."""
    for name in ("model", "owner/name"):
        shutil.copytree(tiny_model, tmp_path / name)
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", ["~/model", "model", "./model", "owner/name"])
@pytest.mark.parametrize("use", USERS)
def test_a_folder_is_found_by_every_user_of_a_model(home, use, path):
    use(path)


@pytest.mark.parametrize("path", ["~/none", "none", "./none", "no/such/model", "/none/at/all", "empty"])
@pytest.mark.parametrize("use", [*USERS, serve])
def test_a_folder_that_is_no_model_is_one_message_of_what_was_expected(home, use, path):
    reason = "has no config.json" if path == "empty" else "is not a folder"
    with pytest.raises((ModelError, EvalError), match=f"{path} {reason}; expected a transformers checkpoint folder"):
        use(path)


def test_a_name_of_two_parts_that_is_no_folder_is_a_hub_id(home):
    assert model_source("some/model") == resolve_model("some/model") == "some/model"
    assert model_source("owner/name") == "owner/name"


def test_a_recipes_model_is_given_on_with_its_home_folder_in_full(home):
    assert model_settings(load_recipe("tiny_arithmetic_cpu", ["model.path=~/model"])).path == str(home / "model")
    assert resolve_model("tiny") == str(TINY)
