"""The benchmarks beside TRL: both sides do the same work, and what is counted is counted right. No time is tested."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

from benchmarks import performance, sft, train_step, vs_trl
from benchmarks.random_model import write_model
from benchmarks.turns import Baton, Stopped, Turns, ratios
from benchmarks.workload import Work, body_parameters, mixed_lengths, model_flops

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MODULES = ("vs_trl", "train_step", "matmul", "performance")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_model("tiny", folder, "float32")
    return folder


# -- the work ---------------------------------------------------------------------------------------------------------


def test_both_sides_train_on_the_same_rollouts_with_the_same_loss_and_gradient(model):
    work = Work(512, 6, ((3, 9, 5, 1), (2, 8, 4, 7)), seed=1)
    settings = train_step.Settings(str(model), work, dtype="float32", batch=4, steps=1)
    taken: list[dict] = []

    class Recorder:
        def pass_on(self, report: dict) -> None:
            taken.append(report)

    train_step.ours(Recorder(), settings)  # type: ignore[arg-type]
    policy = AutoModelForCausalLM.from_pretrained(model)
    trainer = train_step.trl_trainer(settings, policy, AutoTokenizer.from_pretrained(model), taken.append)
    seen: list[dict] = []
    compute_loss = trainer._compute_loss
    trainer._compute_loss = lambda model, inputs: seen.append(inputs) or compute_loss(model, inputs)
    trainer.train()

    ours, theirs = taken
    assert ours["grad_norm"] > 0.01
    assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-6)
    assert len(seen) == 2  # micro-batches of 4
    assert all(inputs["completion_ids"].shape == (4, 9) for inputs in seen)  # padded to the longest of all 8
    rows = {
        (tuple(p.tolist()), tuple(c[m.bool()].tolist()), round(a.item(), 4))
        for inputs in seen
        for p, c, m, a in zip(
            inputs["prompt_ids"], inputs["completion_ids"], inputs["completion_mask"], inputs["advantages"], strict=True
        )
    }
    batch = train_step.train_batch(work)
    assert rows == {(s.prompt_ids, s.completion_ids, round(s.advantage, 4)) for s in batch.samples}


def test_both_sides_fine_tune_on_the_same_rows_with_the_same_loss_and_gradient(model, monkeypatch):
    monkeypatch.setattr(sft, "LENGTHS", ((2, 8), (1, 16)))
    settings = sft.Settings(str(model), rows=4, dtype="float32", batch=2, steps=1)
    taken: list[dict] = []
    recorder = SimpleNamespace(pass_on=taken.append)
    sft.ours(recorder, settings)  # type: ignore[arg-type]
    sft.theirs(recorder, settings)  # type: ignore[arg-type]
    ours, theirs = taken
    assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)


def test_the_rollouts_are_the_same_in_every_process_and_no_group_is_without_advantage():
    lengths = mixed_lengths(3, 8)
    again, work = Work(1000, 5, mixed_lengths(3, 8)), Work(1000, 5, lengths)
    assert again.groups == work.groups
    assert work.tokens == sum(len(one.completion_ids) for group in work.groups for one in group)
    for group in work.groups:
        assert {one.reward for one in group} == {0.0, 1.0}
        assert len({one.prompt_ids for one in group}) == 1
    # mean 1/2, std sqrt(8 / 4 / 7) = 0.534522: 0.5 / (0.534522 + 0.0001) = 0.935239
    assert sorted({round(one.advantage, 6) for one in work.groups[0]}) == [-0.935239, 0.935239]


def test_model_flops_of_one_layer_by_hand():
    # q 8 x 8, k and v 8 x 4, o 8 x 8, three matrices of the MLP 8 x 16: 64 + 2 * 32 + 64 + 3 * 128 = 576
    config = Qwen2Config(
        vocab_size=10,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    assert body_parameters(config) == 576
    work = Work(10, 3, ((2, 1),))
    # A prompt of 3 once, and the first of the two tokens of one completion: the last of each predicts nothing.
    assert (work.positions, work.tokens) == (4, 3)
    assert work.keys == 1 + 2 + 3 + 4
    # 6 * 576 * 4 + 6 * 10 * 8 * 3 + 12 * 1 layer * 8 channels * 10 keys = 13824 + 1440 + 960
    assert model_flops(config, 576, work) == 16224


def test_a_longer_sweep_point_has_the_same_tokens_and_a_larger_group_as_many_groups():
    lengths = dict(train_step.sweep_work("length", 65536, 100))
    assert {work.tokens for work in lengths.values()} == {65536}
    assert {value: work.lengths[0][0] for value, work in lengths.items()} == {n: n for n in train_step.LENGTHS}
    groups = dict(train_step.sweep_work("group", 8448, 100))
    assert {len(work.lengths) for work in groups.values()} == {4}
    assert {value: len(work.lengths[0]) for value, work in groups.items()} == {n: n for n in train_step.GROUPS}


# -- turns ------------------------------------------------------------------------------------------------------------


def play(baton: Baton, settings: tuple[str, str]) -> None:
    """Writes its name at each step, and has a thread and a child process that write all the time."""
    name, folder = settings

    def write() -> None:
        while True:
            with open(f"{folder}/thread-{name}", "a") as file:
                file.write("x")
            time.sleep(0.01)

    threading.Thread(target=write, daemon=True).start()
    code = f"import time\nwhile True:\n    open({folder + '/child-' + name!r}, 'a').write('x'); time.sleep(0.01)"
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        for step in range(100):
            with open(folder + "/order", "a") as file:
                file.write(name)
            baton.pass_on({"step": step})
    except Stopped:
        Path(folder, f"stopped-{name}").touch()
        raise
    finally:
        child.kill()


def written(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def fail(baton: Baton, settings: None) -> None:
    raise ValueError("no such model")


def test_sides_take_turns_and_whatever_they_started_stands_still_meanwhile(tmp_path):
    sides = {name: (play, (name, str(tmp_path))) for name in ("a", "b")}
    with Turns(sides, tmp_path) as turns:
        turns.warm_up(1)
        turns.round()
        turns.round(steps=2)
        assert [report["step"] for report in turns.sides["a"].reports] == [2, 3, 4]  # 0 to start, 1 to warm up
        assert len(turns.sides["b"].seconds) == 3
        assert 0 < turns.sides["a"].peak_gib()["process"] < turns.sides["a"].peak_gib()["all"] < 4
        sizes = [written(tmp_path / f"{who}-a") for who in ("thread", "child")]
        assert sizes[0] > 0
        time.sleep(0.2)
        assert [written(tmp_path / f"{who}-a") for who in ("thread", "child")] == sizes
    assert (tmp_path / "order").read_text() == "ab" + "ab" + "ab" + "aabb"
    assert (tmp_path / "stopped-a").exists()
    assert (tmp_path / "stopped-b").exists()


def test_a_side_that_fails_is_named_with_the_end_of_its_log(tmp_path):
    with (
        pytest.raises(RuntimeError, match=r"(?s)trl ended early.*ValueError: no such model"),
        Turns({"trl": (fail, None)}, tmp_path),
    ):
        pass


def test_a_ratio_is_that_of_one_pair_of_turns():
    # 6/2, 8/4, 10/1
    assert ratios([6.0, 8.0, 10.0], [2.0, 4.0, 1.0]) == {"median": 3.0, "low": 2.0, "high": 10.0}


def test_what_a_turn_took_beyond_its_parts_is_the_rest():
    reports = [{"seconds_wait": 2.0, "seconds_forward": 1.0}, {"seconds_wait": 4.0, "seconds_forward": 1.0}]
    found = vs_trl.parts(reports, [4.0, 6.0])
    assert found["wait"] == 3.0
    assert found["rest"] == pytest.approx(1.0)  # 5 - 3 - 1
    assert set(found) == set(vs_trl.PARTS)


# -- the commands -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_help(module):
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "--json" in done.stdout or module == "performance"


def test_trl_gets_the_recipe_with_its_micro_batch_and_ours_gets_what_set_changes():
    arguments = SimpleNamespace(model="DIR", trl_batch=16, set=["rollout.max_staleness=1"], both=[])
    theirs, ours = vs_trl.overrides("trl", arguments, 5), vs_trl.overrides("ours", arguments, 5)
    assert set(theirs) - set(ours) == {"train.backend=trl", "train.tokens_per_micro_batch=2304"}  # 16 x (80 + 64)
    assert set(ours) - set(theirs) == {"rollout.max_staleness=1"}


def test_a_curve_counts_the_tokens_sampled_up_to_each_evaluation(tmp_path):
    metrics = [{"step": 1, "tokens": 100, "seconds": 2.0}, {"step": 2, "tokens": 50, "seconds": 1.0}]
    found = [{"step": step, "accuracy": 0.5, "low": 0.4, "high": 0.6, "n": 10} for step in (0, 2)]
    for name, lines in (("metrics", metrics), ("evaluations", found)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [(one["tokens"], one["seconds"]) for one in vs_trl.curve(tmp_path)] == [(0, 0.0), (150, 3.0)]


def test_train_step_prints_and_stores_what_scripts_rely_on(tmp_path):
    file = tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks.train_step", "--shape", "tiny", "--tokens", "600", "--rounds", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--json", str(file)], capture_output=True, text=True, cwd=ROOT, env=environment, check=True
    )
    found = json.loads(file.read_text())
    assert found["speedup"].keys() == {"median", "low", "high"}
    assert found["memory"] == pytest.approx(found["ours"]["peak_gib"] / found["trl"]["peak_gib"])
    one = found["ours"]
    assert one["utilisation"] == pytest.approx(found["flops"] / one["seconds"] / found["ceiling"])
    assert one["tokens_per_second"] == pytest.approx(found["tokens"] / one["seconds"])
    assert found["ours"]["grad_norm"] == pytest.approx(found["trl"]["grad_norm"], rel=0.02)  # bf16
    assert "TRL / ours" in done.stdout


# -- the page ---------------------------------------------------------------------------------------------------------


def test_only_what_is_between_the_markers_is_replaced():
    page = "Prose.\n<!-- begin: a -->\nold\n<!-- end: a -->\nMore.\n<!-- begin: b -->\nkept\n<!-- end: b -->\n"
    made = performance.replaced(page, {"a": "new\nlines"})
    assert made == page.replace("old", "new\nlines")
    with pytest.raises(SystemExit, match="c: no marker"):
        performance.replaced(page, {"c": "new"})


def test_the_page_in_the_repository_has_a_marker_for_every_part():
    page = (ROOT / "docs" / "performance.md").read_text()
    for name in performance.SECTIONS:
        assert f"<!-- begin: {name} -->" in page
        assert f"<!-- end: {name} -->" in page


def test_the_machine_is_described_without_its_name():
    import socket

    text = performance.machine()
    assert f"{os.cpu_count()} cores" in text
    assert torch.__version__ in text
    assert socket.gethostname() not in text
