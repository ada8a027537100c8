"""`zero serve`: what it serves, how long a context, and where its log goes. One real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest
import yaml
from typer.testing import CliRunner

from grpo.config import ModelSettings, RolloutSettings
from grpo.rollout.vllm import serve as module
from grpo.rollout.vllm.server import GIB, VLLMServer, command_line, place
from recipes.command.main import main
from recipes.schema.load import TINY, builtin_recipes, load_recipe


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[VLLMServer]:
    """The servers that `serve` would have run; the cache is in tmp_path."""
    servers: list[VLLMServer] = []

    async def note(server: VLLMServer, what: str, log_file: Path) -> None:
        servers.append(server)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_serve", note)
    monkeypatch.chdir(tmp_path)
    return servers


def option(server: VLLMServer, name: str) -> str:
    return server._command[server._command.index(name) + 1]


def test_a_model_is_served_in_its_own_dtype_with_all_of_its_context(served, tiny_model, tmp_path):
    config = json.loads((tiny_model / "config.json").read_text())
    for name, dtype in (("a", "float32"), ("b", "bfloat16")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config | {"dtype": dtype}))
        module.serve(str(tmp_path / name), 0)
        assert option(served[-1], "--dtype") == dtype
        assert option(served[-1], "--max-model-len") == "auto"
    # 64 sequences of 1024 tokens, 8 blocks of 128 and one more: 2 x 2 bytes x 4 layers x 192 a token
    assert option(served[-1], "--kv-cache-memory-bytes") == str(2 * 2 * 4 * 192 * 64 * 9 * 128)


def test_a_context_that_does_not_fit_a_quarter_of_memory_is_left_to_be_fitted(monkeypatch, tiny_model):
    memory = psutil.virtual_memory()._replace(available=GIB // 512)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    rollout = RolloutSettings(max_sequences=1)
    line = command_line(str(tiny_model), ModelSettings(path=str(tiny_model)), rollout, place(rollout.server), True)
    assert line[line.index("--kv-cache-memory-bytes") + 1] == str(GIB // 2048)


def test_a_recipe_is_served_with_its_settings(served):
    assert CliRunner().invoke(main, ["serve", "tiny_arithmetic_cpu", "--port", "0"]).exit_code == 0
    rollout = load_recipe("tiny_arithmetic_cpu").rollout
    assert option(served[0], "--model") == str(TINY)
    assert option(served[0], "--max-model-len") == str(rollout.max_prompt_tokens + rollout.max_tokens)
    assert option(served[0], "--max-num-seqs") == str(rollout.max_sequences)


def test_a_recipe_that_sends_an_adapter_is_served_for_as_many_as_it_uses_and_any_other_for_none(served, tmp_path):
    """To a url `sync: auto` means merged weights, which a server for adapters would take under other names."""
    recipe = yaml.safe_load(builtin_recipes()["tiny_arithmetic_cpu"][0].read_text())
    recipe["rollout"] |= {"max_staleness": 1, "server": {"replicas": 2}}
    for sync in ("adapter", "auto", "merged"):
        recipe["model"]["lora"] = {"r": 12, "sync": sync}
        file = tmp_path / f"{sync}.yaml"
        file.write_text(yaml.safe_dump(recipe))
        assert CliRunner().invoke(main, ["serve", str(file), "--port", "0"]).exit_code == 0
    assert (option(served[0], "--max-loras"), option(served[0], "--max-lora-rank")) == ("3", "16")
    assert not any("--enable-lora" in server._command for server in served[1:])
    assert option(served[0], "--weight-transfer-config") == '{"backend": "zero"}'


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_an_address_that_other_machines_reach_needs_a_token_and_the_message_says_how_to_give_one(
    served, monkeypatch, tiny_model, host
):
    monkeypatch.setattr(module, "pick_port", lambda port, host: 8000)
    for token in ("", None):
        monkeypatch.delenv("ZERO_SERVER_TOKEN", raising=False)
        if token is not None:
            monkeypatch.setenv("ZERO_SERVER_TOKEN", token)
        result = CliRunner().invoke(main, ["serve", str(tiny_model), "--host", host])
        assert result.exit_code == 2
        assert "export ZERO_SERVER_TOKEN=$(openssl rand -hex 32)" in result.stderr
    monkeypatch.setenv("ZERO_SERVER_TOKEN", "with a space")
    result = CliRunner().invoke(main, ["serve", str(tiny_model), "--host", host])
    assert result.exit_code == 2
    assert "expected printable ASCII without spaces" in result.stderr
    assert served == []
    monkeypatch.setenv("ZERO_SERVER_TOKEN", "abc")
    assert CliRunner().invoke(main, ["serve", str(tiny_model), "--host", host]).exit_code == 0
    assert served[0]._host == host
    assert "abc" not in " ".join(served[0]._command)


def test_loopback_needs_no_token_and_a_name_is_resolved(served, tiny_model, monkeypatch):
    monkeypatch.delenv("ZERO_SERVER_TOKEN", raising=False)
    for host in ("127.0.0.1", "localhost"):
        result = CliRunner().invoke(main, ["serve", str(tiny_model), "--port", "0", "--host", host])
        assert result.exit_code == 0, result.stderr
    assert served[1]._host in ("127.0.0.1", "::1")
    refused = CliRunner().invoke(main, ["serve", str(tiny_model), "--host", "no.such.host.invalid"])
    assert "--host no.such.host.invalid: " in refused.stderr


@pytest.mark.server
def test_serving_leaves_the_working_folder_alone_and_says_where_its_log_is(tmp_path):
    """A real server: SIGTERM ends it and all that it started."""
    work, cache = tmp_path / "work", tmp_path / "cache"
    work.mkdir()
    env = os.environ | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(Path(__file__).parents[4])}
    line = [sys.executable, "-c", "from recipes.command.main import main; main()", "serve", "tiny", "--port", "0"]
    with subprocess.Popen(line, cwd=work, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        starting, serving = next(process.stdout), next(process.stdout, "it ended")
        tree = psutil.Process(process.pid).children(recursive=True)
        try:
            log = Path(starting.rpartition("log: ")[2].strip())
            assert log.parent == cache / "zero-rl", starting
            assert log.is_file()
            config = json.loads((TINY / "config.json").read_text())
            assert f"{TINY} in {config['dtype']} at http://127.0.0.1:" in serving
            assert f"context {config['max_position_embeddings']:,} tokens" in serving
            url = serving.partition(" at ")[2].partition(",")[0]
            with urllib.request.urlopen(f"{url}/v1/models") as answer:
                assert json.load(answer)["data"][0]["max_model_len"] == config["max_position_embeddings"]
        finally:
            process.terminate()
    assert not list(work.iterdir())
    assert psutil.wait_procs(tree, timeout=120)[1] == []
