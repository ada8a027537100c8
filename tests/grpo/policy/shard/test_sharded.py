"""A step of several processes is the step of one: gradients, weights, metrics; whatever the rank has to do."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from grpo.policy.packing.pack import packed_micro_batches
from grpo.policy.shard.plan import cost, shares
from grpo.types import Sample
from recipes.jobs.processes import OWN_STORE
from tests import forked
from tests.grpo.policy.shard.steps import CASES, trained

pytestmark = pytest.mark.slow

SIZES = {"2 shards": (2, 1), "3 shards": (3, 1), "2 replicas of 2 shards": (4, 2)}


def by_processes(size: int, replicas: int, folder: Path) -> dict[str, Any]:
    """What `steps.run` gives in `size` processes that torchrun starts."""
    program = folder / "program.py"
    program.write_text(
        "import sys\nfrom pathlib import Path\nfrom tests.grpo.policy.shard.steps import run\n"
        "run(Path(sys.argv[1]), int(sys.argv[2]))\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    # Once in some ten runs torch ended a rank by "free(): double free detected"; as in a run, all start again then.
    torchrun += ["--max-restarts=3"]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[4]), "OMP_NUM_THREADS": "1", OWN_STORE: "1"}
    line = [*torchrun, str(program), str(folder / "results.pt"), str(replicas)]
    done = forked.run(line, env=env, timeout=600)
    assert done.returncode == 0, done.stderr[-5000:]
    return torch.load(folder / "results.pt")


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return {case: trained(case) for case in CASES}


@pytest.fixture(scope="module", params=SIZES)
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return by_processes(*SIZES[request.param], tmp_path_factory.mktemp("together"))


@pytest.mark.parametrize("case", CASES)
def test_gradients_weights_and_metrics_are_those_of_one_process(alone, together, case) -> None:
    one, several = alone[case], together[case]
    for what in ("gradients", "weights"):
        assert one[what].keys() == several[what].keys()
        worst = max((one[what][name] - several[what][name]).abs().max().item() for name in one[what])
        assert worst < 1e-5, what
    if "no group" not in case:
        assert max(gradient.abs().max().item() for gradient in one["gradients"].values()) > 1e-3
    for here, there in zip(one["metrics"], several["metrics"], strict=True):
        names = {name for name in here if not name.startswith("seconds")}
        assert names == {name for name in there if not name.startswith("seconds")}
        assert {name: there[name] for name in names} == pytest.approx({name: here[name] for name in names}, abs=1e-4)
    assert several["penalties"] == pytest.approx(one["penalties"], abs=1e-3)


def group(prompt: int, *lengths: int) -> list[Sample]:
    return [Sample((prompt,) * prompt, (1,) * length, (0.0,) * length, 1.0) for length in lengths]


def test_every_sample_is_computed_once_groups_are_whole_and_ranks_have_equally_many_micro_batches() -> None:
    samples = [s for n in range(1, 12) for s in group(n, *range(1, n + 1))]
    for ranks in (1, 2, 3, 5, 20):
        plan = shares(samples, 80, packed_micro_batches, ranks, 8)
        assert len(plan) == ranks
        assert len({len(micros) for micros in plan}) == 1
        assert sorted(i for micros in plan for micro in micros for i in micro) == list(range(len(samples)))
        for micros in plan:  # empty ones are last
            assert [bool(micro) for micro in micros] == sorted((bool(micro) for micro in micros), reverse=True)
        homes = [{samples[i].prompt_ids for micro in micros for i in micro} for micros in plan]
        assert sum(map(len, homes)) == len(set().union(*homes))


def test_ranks_are_balanced_by_cost_and_not_by_tokens() -> None:
    """One completion of 400 tokens costs its attention, too: as many tokens in short ones cost less."""
    samples = group(1, 400) + [Sample((n,), (1,) * 10, (0.0,) * 10, 1.0) for n in range(2, 302)]
    one, two = shares(samples, 1000, packed_micro_batches, 2, 4)
    loads = [sum(cost([samples[i]], 4) for micro in micros for i in micro) for micros in (one, two)]
    assert max(loads) < 1.1 * min(loads)
