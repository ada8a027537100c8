"""`cluster:` of a recipe: what is refused, what Ray is asked for, and what the plan says of it."""

from __future__ import annotations

import sys

import pytest

from grpo.rollout.fleet.ray import ClusterError, connect, why_lost
from recipes.schema.cluster import bundles, in_words, servers_placed
from recipes.schema.load import RecipeError, load_recipe, model_settings
from tests.recipes.schema.test_plan import LAPTOP, QWEN_7B, SMOLLM2, gpus, lines

TINY = "tiny_arithmetic_cpu"
AUTO = "cluster.address=auto"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["cluster.address=10.0.0.1"], "cluster.address: got '10.0.0.1', expected null, auto or host:port"),
        (["cluster.address=a:99999"], "expected null, auto or host:port"),
        (["cluster.address='ray://a:10001'"], "Ray's client does not do"),
        (["cluster.adress=auto"], "did you mean 'address'?"),
        ([AUTO, "train.processes=3", "cluster.nodes=2"], "cluster.nodes: got 2, expected a divisor of train.processes"),
        ([AUTO, "train.gpus=[1]"], "train.gpus: got [1], but on a cluster Ray says which GPUs"),
        ([AUTO, "rollout.server.gpus=[1]"], "rollout.server.gpus: got [1], but on a cluster Ray says which GPUs"),
        ([AUTO, "train.backend=trl"], "cluster.address: train.backend: trl trains on this machine"),
        ([AUTO, "rollout.server.weight_transfer=shm"], "weight_transfer: shm stays within one machine"),
        ([AUTO, "model.lora={r: 4, sync: adapter}"], "model.lora.sync: adapter is read from the run's folder"),
        ([AUTO, "cluster.gpus=false", "cluster.gpus_per_server=2"], "got 2, with cluster.gpus: false"),
        ([AUTO, "cluster.gpus_per_server=3", "rollout.server.tensor_parallel=2"], "expected a multiple of"),
        ([AUTO, "cluster.room_timeout=0"], "expected a number above 0"),
    ],
)
def test_what_cannot_be_placed_is_refused_with_its_key(settings: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=r"cluster|train|rollout|model") as raised:
        load_recipe(TINY, settings)
    assert message in str(raised.value)


def test_without_an_address_nothing_of_it_matters() -> None:
    recipe = load_recipe(TINY, ["cluster.nodes=7", "rollout.server.weight_transfer=shm"])
    assert not servers_placed(recipe)


def test_the_bundles_are_the_trainers_share_of_each_machine_and_one_for_each_server() -> None:
    settings = [AUTO, "train.processes=8", "train.replicas=2", "rollout.server={replicas: 3, tensor_parallel: 2}"]
    trainer, servers = bundles(load_recipe(TINY, settings), gpus=True)
    assert trainer == [{"CPU": 4.0, "GPU": 4.0}] * 2  # one copy of the shards a machine
    assert servers == [{"CPU": 1.0, "GPU": 2.0}] * 3
    assert in_words(trainer) == "2 x (4 CPU, 4 GPU)"
    more = ["cluster={address: auto, nodes: 4, cpus_per_process: 3, cpus_per_server: 5, gpus_per_server: 8}"]
    trainer, servers = bundles(load_recipe(TINY, [*settings, *more]), gpus=True)
    assert trainer == [{"CPU": 6.0, "GPU": 2.0}] * 4
    assert servers == [{"CPU": 5.0, "GPU": 8.0}] * 3
    assert bundles(load_recipe(TINY, settings), gpus=False) == ([{"CPU": 4.0}] * 2, [{"CPU": 1.0}] * 3)


@pytest.mark.parametrize("settings", [["rollout.engine=transformers"], ["rollout.server.urls=[http://10.0.0.1:8000]"]])
def test_no_server_is_placed_where_none_is_started(settings: list[str]) -> None:
    recipe = load_recipe(TINY, [AUTO, *settings])
    assert not servers_placed(recipe)
    assert bundles(recipe, gpus=False)[1] == []


def test_a_lora_goes_merged_to_servers_that_may_not_see_its_folder() -> None:
    def sync(*settings: str) -> str:
        lora = model_settings(load_recipe(TINY, ["model.lora={r: 4}", *settings])).lora
        assert lora
        return lora.sync

    assert (sync(), sync(AUTO)) == ("adapter", "merged")


def test_the_plan_says_what_ray_places_and_checks_the_leaders_machine_alone() -> None:
    given = [AUTO, "train.processes=4", "cluster={address: auto, nodes: 2, cpus_per_process: 3, cpus_per_server: 2}"]
    said = lines(TINY, SMOLLM2, LAPTOP, *given, "rollout.server.replicas=2")
    assert said["trainer"].startswith("CPU, 3 threads in each of 4 processes, on 2 machines, about ")
    assert said["sampler"].startswith("vllm: 2 placed by Ray, CPU, 2 threads each, about ")
    # Four GPUs a machine: eight processes fit, though this machine has half of them, and no GPU for a server.
    recipe = "qwen2.5_7b_math_8gpu"
    given = [AUTO, "train.processes=8", "train.gpus=[]", "rollout.server.gpus=[]", "cluster.nodes=2"]
    said = lines(recipe, QWEN_7B, gpus(4), *given)
    assert said["trainer"].startswith("8 GPUs, on 2 machines")
    assert said["sampler"].startswith("vllm: 1 placed by Ray, 1 GPUs each")


def test_without_ray_the_message_has_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r"needs Ray, which is not installed here \(pip install 'zero-rl\[ray\]'"):
        connect("auto")


def test_a_node_without_the_code_is_said_in_one_line() -> None:
    told = why_lost(
        RuntimeError("The actor failed to import on the worker\nModuleNotFoundError: No module named 'grpo'")
    )
    assert (
        told == "a node lacks what a run needs (ModuleNotFoundError: No module named 'grpo'): install the same on all"
    )
