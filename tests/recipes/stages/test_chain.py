"""A chain of stages: read, refused, run, killed at any stage and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import load_dataset
from safetensors.torch import load_file

from recipes.errors import InputError
from recipes.schema.chain import load_chain
from recipes.schema.load import RecipeError
from recipes.stages.identity import identities
from recipes.tiny.corpus import careful
from tests import forked
from tests.processes import gone

ROOT = Path(__file__).parents[3]
CHAIN: dict[str, Any] = {
    "model": {"path": "tiny", "dtype": "float32"},
    "task": {"name": "arithmetic", "config": {"levels": [1]}, "template": "{question}=<think>", "problems": 64},
    "rollout": {
        "engine": "transformers",
        "group_size": 4,
        "prompts_per_step": 4,
        "max_tokens": 32,
        "max_prompt_tokens": 16,
        "max_sequences": 64,
    },
    "eval": {"problems": 8},
    "stages": {
        "cold": {
            "kind": "sft",
            "data": [{"dataset": "cold.jsonl"}],
            "train": {"learning_rate": 1.0e-4, "batch_size": 4, "steps": 3, "checkpoint_every": 1},
        },
        "rl": {
            "kind": "grpo",
            "model": "cold",
            "rewards": [{"name": "accuracy"}],
            "train": {"steps": 3, "learning_rate": 2.0e-4, "checkpoint_every": 1},
        },
        "samples": {"kind": "sample", "model": "rl", "sample": {"samples": 2, "problems": 24}},
        "student": {
            "kind": "sft",
            "model": {"path": "base", "lora": {"r": 4}},
            "data": [{"stage": "samples"}, {"dataset": "cold.jsonl", "share": 0.25}],
            "train": {"learning_rate": 1.0e-3, "batch_size": 4, "steps": 3, "checkpoint_every": 1},
        },
    },
}


@pytest.fixture(scope="module")
def chain_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("chain"), CHAIN)


def written(folder: Path, chain: dict[str, Any]) -> Path:
    pairs = [(a, b) for a in range(10, 26) for b in (3, 17)]
    rows = [{"prompt": f"{a} + {b}=<think>", "completion": careful(f"{a} + {b}")} for a, b in pairs]
    (folder / "cold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = folder / "chain.yaml"
    file.write_text(yaml.safe_dump(chain, sort_keys=False))
    return file


@contextmanager
def started(file: Path, output: Path, *more: str) -> Iterator[forked.Popen]:
    program = "from recipes.command.main import main; main()"
    line = [sys.executable, "-c", program, "run", str(file), "--output", str(output), *more]
    pipe = subprocess.PIPE
    with forked.Popen(
        line, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            assert gone(process.pid)


def run(file: Path, output: Path, *more: str) -> tuple[int, str, str]:
    with started(file, output, *more) as process:
        out, errors = process.communicate(timeout=400)
    return process.returncode, out, errors


@pytest.fixture(scope="module")
def whole(chain_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "out"
    code, said, errors = run(chain_file, output)
    assert code == 0, said + errors
    return output


def weights(output: Path, stage: str) -> dict[str, Any]:
    return load_file(output / "stages" / stage / "model" / "model.safetensors")


@pytest.mark.slow
def test_every_stage_is_a_run_of_its_own_and_the_summary_has_all_in_order(whole: Path) -> None:
    stages = json.loads((whole / "summary.json").read_text())["stages"]
    assert [stage["name"] for stage in stages] == ["cold", "rl", "samples", "student"]
    for stage in stages:
        folder = whole / "stages" / stage["name"]
        assert (folder / "stage.json").is_file()
        assert (folder / "recipe.yaml").is_file()
        if stage["kind"] != "sample":
            assert {"before", "after", "change"} <= stage.keys()
            assert stage["change"]["low"] <= stage["change"]["value"] <= stage["change"]["high"]
    cold, rl = stages[0], stages[1]
    assert cold["after"] == rl["before"]
    assert "change" in (whole / "report.html").read_text()


@pytest.mark.slow
def test_what_was_kept_is_right_has_its_origin_and_is_a_dataset(whole: Path) -> None:
    data = whole / "stages" / "samples" / "data"
    rows = load_dataset(str(data), split="train")
    assert 0 < len(rows) <= 24
    assert set(rows["outcome"]) == {"correct"}
    assert {"prompt", "completion", "problem_id", "model", "weights", "seed"} <= set(rows.column_names)
    assert len(set(rows["weights"])) == 1
    assert "| kept |" in (data / "README.md").read_text()


@pytest.mark.slow
def test_a_merged_adapter_is_what_the_stage_left(whole: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = whole / "stages" / "student" / "model"
    assert not (folder / "adapter_config.json").exists()
    AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.slow
def test_killed_in_every_stage_and_resumed_it_ends_with_the_bits_of_the_uninterrupted_one(
    chain_file, whole, tmp_path
) -> None:
    output = tmp_path / "out"
    moments = [
        ("cold", lambda folder: (folder / "checkpoints" / "step-000001").exists()),
        ("rl", lambda folder: (folder / "checkpoints" / "step-000002").exists()),
        ("samples", lambda folder: (folder / "generations.jsonl").exists()),
        ("student", lambda folder: (folder / "checkpoints" / "step-000001").exists()),
    ]
    for stage, came in moments:
        resume = ["--resume"] if output.exists() else []
        with started(chain_file, output, *resume) as process:
            deadline = time.monotonic() + 240
            while not came(output / "stages" / stage):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
    code, said, errors = run(chain_file, output, "--resume")
    assert code == 0, said + errors
    for stage in ("cold", "rl", "student"):
        ours, theirs = weights(output, stage), weights(whole, stage)
        assert all((ours[name] == theirs[name]).all() for name in theirs)
        lines = [json.loads(line)["step"] for line in (output / "stages" / stage / "metrics.jsonl").open()]
        assert lines == [1, 2, 3]


@pytest.mark.slow
def test_sigterm_ends_it_resumable_and_a_changed_stage_is_refused_by_name(chain_file, tmp_path) -> None:
    output = tmp_path / "out"
    with started(chain_file, output) as process:
        while not (output / "stages" / "rl" / "metrics.jsonl").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        said, errors = process.communicate(timeout=300)
    assert process.returncode == 143, errors
    assert "--resume" in said
    code, _, errors = run(chain_file, output, "--resume", "--set", "stages.cold.train.learning_rate=0.01")
    assert code == 2
    assert "stages cold, rl ran with other settings" in errors
    code, said, errors = run(chain_file, output, "--resume", "--set", "rollout.server.replicas=1")
    assert code == 0, errors
    assert "cold: sft from tiny (finished)" in said
    code, said, _ = run(chain_file, output, "--resume")
    assert code == 0
    assert said.count("(finished)") == 4


# -- What is refused before anything starts -------------------------------------------------------------------------


def stages(**changes: Any) -> dict[str, Any]:
    return {**CHAIN, "stages": {name: changes.get(name, stage) for name, stage in CHAIN["stages"].items()}}


def distilled(teacher: str) -> dict[str, Any]:
    """The stage rl, from the base model, drawn to a teacher."""
    train = {**CHAIN["stages"]["rl"]["train"], "advantage": "teacher", "teacher": teacher}
    return {**CHAIN["stages"]["rl"], "model": "base", "train": train}


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ({**CHAIN, "stages": {}}, "stages: got {}, expected a mapping of names to stages"),
        (stages(rl={"kind": "ppo"}), "stages.rl.kind: got 'ppo', expected grpo or sft or sample"),
        (stages(rl={**CHAIN["stages"]["rl"], "model": "colt"}), "no stage and no folder 'colt' (did you mean 'cold'?)"),
        (stages(rl={**CHAIN["stages"]["rl"], "model": "samples"}), "stage samples makes samples, no model"),
        (stages(cold={**CHAIN["stages"]["cold"], "model": "student"}), "stages: a circle: "),
        (stages(rl=distilled("samples")), "stages.rl.train.teacher: stage samples makes samples, no model"),
        (stages(cold={**CHAIN["stages"]["cold"], "model": "rl"}, rl=distilled("cold")), "stages: a circle: "),
        (stages(student={"kind": "sft", "data": [{"stage": "rl"}]}), "stage rl makes no samples"),
        (
            stages(student={"kind": "sft", "data": [{"stage": "smaples"}]}),
            "did you mean 'samples'?",
        ),
        (stages(cold={**CHAIN["stages"]["cold"], "train": {"epochs": 1, "steps": 2}}), "epochs: steps say"),
        ({**CHAIN, "train": {"warmpu_steps": 3}}, "train.warmpu_steps: no stage of this chain takes it"),
        (stages(cold={"kind": "sft", "data": [{"dataset": "cold.jsonl", "share": 0.5}]}), "every source has a share"),
    ],
)
def test_a_chain_that_cannot_work_is_refused_with_one_message(tmp_path, chain, message) -> None:
    from recipes.stages.check import check

    file = written(tmp_path, chain)
    with pytest.raises(InputError) as refused:
        check(load_chain(str(file)))
    assert message in str(refused.value)


def test_every_problem_is_said_at_once(tmp_path) -> None:
    chain = stages(rl={"kind": "ppo"}, student={"kind": "sft", "data": [{"stage": "nothing"}]})
    with pytest.raises(RecipeError) as refused:
        load_chain(str(written(tmp_path, chain)))
    assert len(str(refused.value).split("\n")) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{"question": "a"}\n', "has the columns question, expected messages"),
        ('{"messages": [{"role": "user", "content": "a"}]}\n', "no row can be learned from"),
    ],
)
def test_data_that_cannot_be_learned_from_is_found_before_the_first_stage(tmp_path, rows, message) -> None:
    file = written(tmp_path, CHAIN)
    (tmp_path / "cold.jsonl").write_text(rows)
    code, _, errors = run(file, tmp_path / "out")
    assert code == 2
    assert message in errors
    assert "stage cold: " in errors
    assert errors.count("error:") == 1
    assert not (tmp_path / "out").exists()


def test_the_identity_of_a_stage_follows_its_settings_its_files_and_its_inputs(tmp_path) -> None:
    file = written(tmp_path, CHAIN)
    before = identities(load_chain(str(file)))
    assert before == identities(load_chain(str(file), ["rollout.server.replicas=2"]))
    rl = identities(load_chain(str(file), ["stages.rl.train.learning_rate=0.1"]))
    assert [name for name in before if before[name] != rl[name]] == ["rl", "samples", "student"]
    with (tmp_path / "cold.jsonl").open("a") as opened:
        opened.write('{"prompt": "1 + 1=<think>", "completion": "2"}\n')
    data = identities(load_chain(str(file)))
    assert all(before[name] != data[name] for name in before)


def test_a_stage_can_be_the_teacher_of_another(tmp_path) -> None:
    file = written(tmp_path, stages(rl=distilled("cold")))
    chain = load_chain(str(file))
    rl = next(stage for stage in chain.stages if stage.name == "rl")
    assert (rl.model, rl.inputs) == (None, ("cold",))
    assert rl.resolved({"cold": Path("made")}, {})["train"]["teacher"] == "made"
    changed = identities(load_chain(str(file), ["stages.cold.train.learning_rate=0.1"]))
    assert identities(chain)["rl"] != changed["rl"]


def test_the_stages_of_the_file_keep_their_order_where_they_can(tmp_path) -> None:
    chain = {**CHAIN, "stages": dict(reversed(CHAIN["stages"].items()))}
    assert [stage.name for stage in load_chain(str(written(tmp_path, chain))).stages] == [
        "cold",
        "rl",
        "samples",
        "student",
    ]
