"""Whole runs with the in-process engine: they learn, repeat bit for bit, and survive being killed."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from datasets import load_dataset
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from transformers import AutoModelForCausalLM

from grpo.config import LoraSettings, ModelSettings, RolloutSettings
from grpo.policy.checkpoint import STATE, checkpoints
from grpo.policy.update import PolicyUpdate
from grpo.record.recorder import RunRecorder
from grpo.rollout.engine import RolloutError
from grpo.rollout.local import TransformersEngine
from grpo.trainer import GRPOTrainer
from recipes.jobs.train import run
from recipes.schema.load import load_recipe
from recipes.schema.recipe import Recipe
from recipes.tasks import TaskError
from rewards import RewardError, RewardSum
from tests import forked
from tests.checkpoints import STATE_FILE

pytestmark = pytest.mark.slow

REWARDS = '''
def digits(completions, **columns):
    """Share of characters that are digits: a random model can learn it in a few steps."""
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]

def raises(completions, **columns):
    return [1 / 0 for _ in completions]

def short(completions, **columns):
    return [1.0]

def nan(completions, **columns):
    return [float("nan")] * len(completions)

def seven(completions, **columns):
    return [float("7" in text) for text in completions]

def never(completions, **columns):
    return [None] * len(completions)
'''


@pytest.fixture
def recipe_file(tmp_path: Path, tiny_model: Path) -> Path:
    (tmp_path / "my_rewards.py").write_text(REWARDS)
    recipe = {
        "model": {"path": str(tiny_model), "dtype": "float32"},
        "task": {"name": "arithmetic", "config": {"levels": [1]}, "template": "{question}="},
        "rewards": [{"name": "my_rewards.py:digits"}],
        "rollout": {
            "engine": "transformers",
            "group_size": 8,
            "prompts_per_step": 4,
            "max_tokens": 8,
            "max_prompt_tokens": 16,
        },
        "train": {"steps": 4, "learning_rate": 2.0e-4, "checkpoint_every": 2, "seed": 3},
        "eval": {"problems": 8},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def train(recipe_file: Path, output: Path, *overrides: str, resume: bool = False) -> list[dict]:
    """Run to the end in this process; the lines of metrics.jsonl."""
    assert run(load_recipe(str(recipe_file), list(overrides)), "test", output, resume) == 0
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoints(output)[-1][1] / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_learns_and_leaves_what_the_docs_promise(recipe_file, tmp_path):
    lines = train(recipe_file, tmp_path / "out", "train.steps=12", "rollout.group_size=16")
    rewards = [line["reward"] for line in lines]
    assert sum(rewards[-3:]) > 1.5 * sum(rewards[:3])
    assert [line["weight_version"] for line in lines] == list(range(1, 13))
    # Sampler and trainer are the same model in fp32: their log-probs agree to rounding.
    assert all(line["logprob_diff"] < 1e-4 for line in lines)
    out = tmp_path / "out"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["steps"] == 12
    assert summary["engine"] == "transformers"
    assert {"accuracy", "low", "high", "n"} <= summary["before"].keys() & summary["after"].keys()
    assert load_recipe(str(out / "recipe.yaml")).train.steps == 12
    rows = load_dataset("parquet", data_files=str(out / "rollouts" / "*.parquet"), split="train")
    assert len(rows) == 12 * 4 * 16
    assert all(len(r["token_ids"]) == len(r["logprobs"]) == len(r["versions"]) for r in rows)
    assert {v for r in rows if r["step"] == 5 for v in r["versions"]} == {4}
    model = AutoModelForCausalLM.from_pretrained(checkpoints(out)[-1][1])
    assert same(dict(model.named_parameters()), weights(out))


def test_two_runs_with_one_seed_end_with_the_same_bits_and_another_seed_does_not(recipe_file, tmp_path):
    first, second = train(recipe_file, tmp_path / "a"), train(recipe_file, tmp_path / "b")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert [line["loss"] for line in first] == [line["loss"] for line in second]
    train(recipe_file, tmp_path / "c", "train.seed=4")
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


@pytest.mark.parametrize("killed_in", [1, 2, 3, 4])
def test_a_run_killed_in_any_step_and_resumed_ends_as_the_uninterrupted_one(recipe_file, tmp_path, killed_in):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    uninterrupted = train(recipe_file, whole)
    kill_in_step(recipe_file, broken, killed_in)
    resumed = train(recipe_file, broken, resume=True)
    assert same(weights(whole), weights(broken))
    assert [line["step"] for line in resumed] == [1, 2, 3, 4]
    assert [line["reward"] for line in resumed] == [line["reward"] for line in uninterrupted]
    files = [(checkpoints(out)[-1][1] / STATE_FILE).read_bytes() for out in (whole, broken)]
    assert files[0] == files[1]


def kill_in_step(recipe_file: Path, output: Path, step: int, *overrides: str) -> None:
    """Start `zero run` and kill it with -9 once it is in step `step`."""
    command = [str(Path(sys.executable).parent / "zero"), "run", str(recipe_file), "--output", str(output)]
    command += [part for override in overrides for part in ("--set", override)]
    process = forked.Popen(command, stdout=subprocess.DEVNULL)
    log, deadline = output / "logs" / "run.log", time.monotonic() + 300
    while not (log.exists() and f"step {step}: " in log.read_text()):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_checkpoint_that_was_being_written_is_ignored(recipe_file, tmp_path):
    train(recipe_file, tmp_path / "out", "train.steps=2")
    (tmp_path / "out" / "checkpoints" / ".step-000003.partial").mkdir()
    assert [step for step, _ in checkpoints(tmp_path / "out")] == [2]


def test_a_finished_run_can_be_extended_and_equals_the_longer_run(recipe_file, tmp_path):
    train(recipe_file, tmp_path / "short", "train.steps=2")
    train(recipe_file, tmp_path / "short", resume=True)
    train(recipe_file, tmp_path / "long")
    assert same(weights(tmp_path / "short"), weights(tmp_path / "long"))


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "dapo"])
def test_every_loss_runs_with_kl_several_updates_and_masked_truncation(recipe_file, tmp_path, loss):
    overrides = [f"train.loss={loss}", "train.steps=2", "train.updates_per_batch=2", "train.kl_coef=0.05"]
    lines = train(recipe_file, tmp_path / "out", *overrides, "train.gradient_checkpointing=true")
    assert all(line["kl"] > 0 for line in lines)  # from the second update on the policy is not the reference
    masked = train(recipe_file, tmp_path / "masked", *overrides, "train.mask_truncated=true", "train.kl_coef=0")
    assert masked[0]["trained_tokens"] < lines[0]["trained_tokens"]


def test_micro_batches_leave_the_run_as_it_was(recipe_file, tmp_path):
    one = train(recipe_file, tmp_path / "one", "train.steps=1")[0]
    many = train(recipe_file, tmp_path / "many", "train.steps=1", "train.tokens_per_micro_batch=64")[0]
    assert many["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    assert many["loss"] == pytest.approx(one["loss"], abs=1e-6)


def test_lora_trains_the_adapter_alone_and_its_checkpoint_loads_in_peft(recipe_file, tmp_path, tiny_model):
    from peft import PeftModel

    lines = train(recipe_file, tmp_path / "out", "model.lora={r: 8, alpha: 16}", "train.learning_rate=5e-3")
    assert all(line["logprob_diff"] < 1e-3 for line in lines)  # the merged weights are the adapted model
    folder = checkpoints(tmp_path / "out")[-1][1]
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    adapted = PeftModel.from_pretrained(base, folder)
    moved = [p.abs().max().item() for name, p in adapted.named_parameters() if "lora_B" in name]
    assert min(moved) > 0


def test_bf16_weights_learn_through_fp32_masters(recipe_file, tmp_path):
    train(recipe_file, tmp_path / "out", "model.dtype=bfloat16", "train.learning_rate=1e-6", "train.steps=2")
    dcp_to_torch_save(checkpoints(tmp_path / "out")[-1][1] / STATE, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt")
    rounded = list(weights(tmp_path / "out").values())
    assert all(tensor.dtype == torch.bfloat16 for tensor in rounded)
    masters = {name: tensor for name, tensor in state.items() if name.startswith("masters.")}
    assert any((master != master.bfloat16().float()).any() for master in masters.values())


def test_random_rewards_do_not_teach(recipe_file, tmp_path):
    lines = train(recipe_file, tmp_path / "out", "train.control=random", "train.steps=8")
    real = train(recipe_file, tmp_path / "real", "train.steps=8")
    assert lines[-1]["reward"] < real[-1]["reward"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["control"] == "random"


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("raises", r"my_rewards.py:raises.*ZeroDivisionError"),
        ("short", r"my_rewards.py:short.*got 1 values, expected 8"),
        ("nan", r"my_rewards.py:nan.*not finite"),
    ],
)
def test_a_reward_that_breaks_its_contract_stops_the_run_and_is_named(recipe_file, tmp_path, reward, message):
    with pytest.raises(RewardError, match=message):
        train(recipe_file, tmp_path / "out", f"rewards.0.name=my_rewards.py:{reward}")


def test_too_many_unscored_completions_stop_the_run(recipe_file, tmp_path):
    with pytest.raises(RolloutError, match=r"32 of 32 completions failed .*max_failed_share"):
        train(recipe_file, tmp_path / "out", "rewards.0.name=my_rewards.py:never")


def test_defaults_that_exceed_the_models_length_are_cut_to_it_and_impossible_ones_are_refused(recipe_file, tmp_path):
    train(recipe_file, tmp_path / "out", "rollout.max_prompt_tokens=4096", "train.steps=1")
    with pytest.raises(TaskError, match=r"max_tokens: 1024 leaves no room for a prompt, the model takes 1024 tokens"):
        train(recipe_file, tmp_path / "none", "rollout.max_tokens=1024", "train.tokens_per_micro_batch=64")


def test_groups_without_contrast_train_nothing_and_say_so(recipe_file, tmp_path):
    lines = train(recipe_file, tmp_path / "out", "rewards.0.name=accuracy", "train.steps=1")
    assert lines[0]["zero_variance_groups"] == 1.0
    assert lines[0]["trained_tokens"] == 0
    assert math.isclose(lines[0]["loss"], 0.0)
    assert "one and the same reward" in (tmp_path / "out" / "logs" / "run.log").read_text()


def stale(recipe_file: Path, *overrides: str) -> Recipe:
    """The recipe with a staleness bound of 2, which is refused for this engine because nothing is gained by it."""
    recipe = load_recipe(str(recipe_file), ["train.steps=7", *overrides])
    return recipe.model_copy(update={"rollout": recipe.rollout.model_copy(update={"max_staleness": 2})})


def rollouts(output: Path) -> list[dict]:
    return list(load_dataset("parquet", data_files=str(output / "rollouts" / "*.parquet"), split="train"))


def test_a_run_ahead_of_its_weights_stopped_and_resumed_trains_every_prompt_once_within_the_bound(
    recipe_file, tmp_path, monkeypatch
):
    def stop_in_step_5(recorder: RunRecorder, message: str) -> None:
        if message == "step 5: training":
            raise KeyboardInterrupt

    output = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(RunRecorder, "stage", stop_in_step_5)
        with pytest.raises(KeyboardInterrupt):
            run(stale(recipe_file), "test", output, False)
    assert json.loads((checkpoints(output)[-1][1] / "trainer.json").read_text())["step"] == 4
    assert run(stale(recipe_file), "test", output, True) == 0
    rows = rollouts(output)
    lags = [row["step"] - 1 - min(row["versions"]) for row in rows]
    assert set(lags) == {0, 1, 2}
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["staleness"] for line in lines] == [
        pytest.approx(sum(lag for lag, row in zip(lags, rows, strict=True) if row["step"] == step) / 32)
        for step in range(1, 8)
    ]
    train(recipe_file, tmp_path / "in_turns", "train.steps=7")
    asked = Counter(row["prompt_id"] for row in rollouts(tmp_path / "in_turns"))
    assert Counter(row["prompt_id"] for row in rows) == asked


def test_a_step_is_refilled_with_groups_that_have_contrast_and_repeats_after_a_kill(recipe_file, tmp_path):
    seldom = ["rewards.0.name=my_rewards.py:seven", "rollout.group_size=4", "rollout.refill=9"]
    seldom += ["train.steps=3", "train.checkpoint_every=1"]
    whole = train(recipe_file, tmp_path / "whole", *seldom)
    rows = rollouts(tmp_path / "whole")
    assert sum(line["refilled_groups"] for line in whole) > 0
    for line in whole:
        groups = defaultdict(list)
        for row in rows:
            if row["step"] == line["step"]:
                groups[row["group"]].append(row)
        flat = [len({row["reward"] for row in group}) == 1 for group in groups.values()]
        dropped = [group[0]["dropped"] for group in groups.values()]
        assert (dropped.count(False), dropped.count(True)) == (4, line["refilled_groups"])
        assert flat == dropped
        sampled = [row for group in groups.values() for row in group]
        assert line["tokens"] == sum(len(row["token_ids"]) for row in sampled)  # dropped ones cost as much
        assert all((row["advantage"] is None) == row["dropped"] for row in sampled)
    kill_in_step(recipe_file, tmp_path / "broken", 2, *seldom)
    train(recipe_file, tmp_path / "broken", *seldom, resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    assert [row["token_ids"] for row in rollouts(tmp_path / "broken")] == [row["token_ids"] for row in rows]


def test_a_refill_that_finds_no_contrast_stops_the_run_and_says_what_to_change(recipe_file, tmp_path):
    with pytest.raises(RolloutError, match=r"none of 12 groups has contrast.*rollout\.refill: 2 allows no more than 8"):
        train(recipe_file, tmp_path / "out", "rewards.0.name=accuracy", "rollout.refill=2")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damaged", [[4], [2, 4]])
def test_a_run_resumed_past_damage_says_so_agrees_with_its_records_and_ends_as_if_there_had_been_none(
    recipe_file, tmp_path, damaged
):
    output = tmp_path / "out"
    once = train(recipe_file, output)
    whole = weights(output)
    for step in damaged:
        flip_a_bit(output / "checkpoints" / f"step-{step:06d}" / STATE_FILE)
    again = train(recipe_file, output, resume=True)
    log = (output / "logs" / "run.log").read_text()
    for step in damaged:
        assert f"checkpoint step-{step:06d} is damaged ({STATE_FILE} is not as it was written" in log
    assert ("resuming from step-000002" in log) == (damaged == [4])
    assert ("holds no whole checkpoint: the run starts afresh, from step 0" in log) == (damaged == [2, 4])
    assert same(weights(output), whole)
    assert [line["step"] for line in again] == [1, 2, 3, 4]
    assert [line["reward"] for line in again] == [line["reward"] for line in once]
    newest = checkpoints(output)[-1][1]
    assert json.loads((newest / "trainer.json").read_text())["step"] == 4
    evaluations = [json.loads(line)["step"] for line in (output / "evaluations.jsonl").read_text().splitlines()]
    assert evaluations == [0, 4]


def test_a_run_whose_disk_fills_up_fails_with_one_message_and_can_be_resumed(recipe_file, tmp_path, small_disk):
    subprocess.run(["mount", "-o", "remount,size=40m", small_disk], check=True)  # a checkpoint has about 29 MB
    output = small_disk / "out"
    command = [str(Path(sys.executable).parent / "zero"), "run", str(recipe_file), "--output", str(output)]
    done = forked.run(command)
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert len(errors) == 1, done.stderr
    assert f"cannot write {output / 'checkpoints' / 'step-000004'}: No space left on device; free" in errors[0]
    assert "Traceback" not in done.stderr
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step-000002"]
    subprocess.run(["mount", "-o", "remount,size=90m", small_disk], check=True)
    train(recipe_file, output, resume=True)
    train(recipe_file, tmp_path / "whole")
    assert same(weights(output), weights(tmp_path / "whole"))


def test_the_parts_of_a_steps_time_are_those_that_took_it_and_leave_no_rest(recipe_file, tmp_path, monkeypatch):
    """Each part is made to take PAUSE seconds more: a part not counted leaves a rest of that, one counted twice a rest
    below 0. The whole is measured from one recorded step to the next."""
    pause, recorded = 0.7, []

    def slowed(owner: type, name: str, seconds: float) -> None:
        original = getattr(owner, name)

        def slow(*args, **settings):
            time.sleep(seconds)
            return original(*args, **settings)

        monkeypatch.setattr(owner, name, slow)

    def record(recorder: RunRecorder, step: int, metrics: dict[str, float]) -> None:
        recorded.append(time.monotonic())
        original_step(recorder, step, metrics)

    original_step = RunRecorder.step
    monkeypatch.setattr(RunRecorder, "step", record)
    slowed(TransformersEngine, "_sample", pause)
    slowed(RewardSum, "score", pause / 4)  # a step has four groups
    slowed(PolicyUpdate, "run", pause)
    slowed(TransformersEngine, "_load", pause)
    lines = train(recipe_file, tmp_path / "out", "train.steps=3", "train.checkpoint_every=0")
    for i, line in enumerate(lines):
        parts = [line[f"seconds_{part}"] for part in ("wait", "reward", "train", "sync")]
        assert min(parts) > 0.9 * pause
        assert 0 <= line["seconds"] - sum(parts) < 0.9 * pause
        assert i == 0 or line["seconds"] == pytest.approx(recorded[i] - recorded[i - 1], abs=0.9 * pause)
        inside = [line[f"seconds_{part}"] for part in ("pack", "forward", "backward", "optimizer")]
        assert sum(inside) <= line["seconds_train"]


def test_a_resumed_run_keeps_the_adapters_in_use_and_drops_those_of_steps_that_it_trains_again(tmp_path):
    def kept(version: int, staleness: int) -> list[str]:
        trainer = object.__new__(GRPOTrainer)
        trainer.run_dir, trainer.recorder = tmp_path, SimpleNamespace(stage=lambda message: None)
        trainer.rollout = RolloutSettings(max_staleness=staleness)
        trainer.model_settings = ModelSettings(path="x", lora=LoraSettings(sync="adapter"))
        trainer.learner = SimpleNamespace(save_model=lambda folder: folder.mkdir(parents=True, exist_ok=True))
        trainer.engine = AdaptersOnDisk()
        asyncio.run(trainer._sync(version))
        return sorted(folder.name for folder in (tmp_path / "adapters").iterdir())

    for version in range(10):
        served = kept(version, staleness=3)
    assert served == [f"version-{n:06d}" for n in (5, 6, 7, 8, 9)]  # of 3 steps ago and newer, and one to spare
    assert kept(6, staleness=3) == ["version-000005", "version-000006"]  # resumed at step 6: 7 to 9 are to come again
    assert kept(7, staleness=0) == ["version-000006", "version-000007"]


class AdaptersOnDisk:
    async def update_adapter(self, folder: Path, version: int) -> None:
        pass
