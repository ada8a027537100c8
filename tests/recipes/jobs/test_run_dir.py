"""A run's directory: one process at a time, and a start that trained nothing does not block the next try."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from grpo.config import ModelError
from grpo.rollout.engine import RolloutError
from recipes.errors import InputError
from recipes.jobs.run_dir import check_unused, locked
from recipes.jobs.train import run
from recipes.schema.load import load_recipe

HOLD = """
import os, sys, time
from pathlib import Path
from recipes.jobs.run_dir import locked
with locked(Path(sys.argv[1]), "it"):
    if os.fork() == 0:  # a child that lives on
        time.sleep(600)
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def recipe_file(tmp_path: Path, tiny_model: Path) -> Path:
    shutil.copytree(tiny_model, tmp_path / "model")
    recipe = {
        "model": {"path": str(tmp_path / "model"), "dtype": "float32"},
        "task": {"name": "arithmetic", "config": {"levels": [1]}, "template": "{question}="},
        "rewards": [{"name": "accuracy"}],
        "rollout": {"engine": "transformers", "group_size": 2, "prompts_per_step": 2, "max_tokens": 4},
        "train": {"steps": 1},
        "eval": {"problems": 2},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.slow
def test_a_second_run_into_a_folder_is_refused_until_the_process_of_the_first_is_dead(recipe_file, tmp_path):
    output = tmp_path / "out"
    line = [sys.executable, "-c", HOLD, str(output / ".lock")]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            for resume in (False, True):
                with pytest.raises(InputError, match=rf"--output .*out is in use by process {process.pid};"):
                    run(load_recipe(str(recipe_file)), "test", output, resume)
            assert [file.name for file in output.iterdir()] == [".lock"]
            process.kill()
            process.wait()
            assert run(load_recipe(str(recipe_file)), "test", output, False) == 0
        finally:
            os.killpg(process.pid, 9)


def test_a_lock_is_given_back(tmp_path):
    with locked(tmp_path / ".lock", "it"):
        pass
    done = subprocess.run(
        [sys.executable, "-c", HOLD.replace("time.sleep(600)", "os._exit(0)"), str(tmp_path / ".lock")], check=True
    )
    assert done.returncode == 0


@pytest.mark.slow
def test_a_start_that_failed_before_anything_was_trained_may_be_repeated(recipe_file, tmp_path):
    output = tmp_path / "out"
    weights = tmp_path / "model" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:5000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        run(load_recipe(str(recipe_file)), "test", output, False)
    weights.write_bytes(whole)
    with socket.create_server(("127.0.0.1", 0)) as busy:
        overrides = ["rollout.engine=vllm", f"rollout.server.port={busy.getsockname()[1]}"]
        with pytest.raises(RolloutError, match="is busy"):
            run(load_recipe(str(recipe_file), overrides), "test", output, False)
    check_unused(output)
    assert run(load_recipe(str(recipe_file)), "test", output, False) == 0
    with pytest.raises(InputError, match="is not empty; add --resume"):
        run(load_recipe(str(recipe_file)), "test", output, False)


def test_a_folder_that_no_run_began_in_is_not_written_to(tmp_path):
    (tmp_path / "recipe.yaml").write_text("# mine")
    with pytest.raises(InputError, match="is not empty"):
        check_unused(tmp_path)


@pytest.mark.slow
def test_an_error_is_in_the_log_and_a_run_that_failed_before_its_first_step_may_go_on_as_another(
    recipe_file, tmp_path, monkeypatch
):
    def fails(*_):
        raise RolloutError("the server did not start")

    output = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr("grpo.rollout.local.TransformersEngine.start", fails)
        with pytest.raises(RolloutError):
            run(load_recipe(str(recipe_file)), "test", output, False)
    log = (output / "logs" / "run.log").read_text()
    assert "failed: RolloutError: the server did not start" in log
    assert "Traceback" in log
    run(load_recipe(str(recipe_file), ["train.seed=5"]), "test", output, True)
    assert (output / "summary.json").is_file()
