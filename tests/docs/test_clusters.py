"""What docs/clusters.md and the manifest for KubeRay say exists, and fits together."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes.schema.cluster import ClusterSettings, bundles, servers_placed
from recipes.schema.load import load_recipe

ROOT = Path(__file__).parents[2]

# KubeRay's v1 resources (ray-operator/apis/ray/v1: rayjob_types.go, raycluster_types.go), and what they require.
RAY_JOB = {
    *("activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate", "metadata", "clusterSelector"),
    *("submitterConfig", "managedBy", "deletionStrategy", "entrypoint", "runtimeEnvYAML", "jobId", "submissionMode"),
    *("entrypointResources", "entrypointNumCpus", "entrypointNumGpus", "ttlSecondsAfterFinished"),
    *("shutdownAfterJobFinishes", "suspend"),
}
CLUSTER = {"headGroupSpec", "workerGroupSpecs", "rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "suspend"}
HEAD = {"serviceType", "headService", "enableIngress", "rayStartParams", "template"}
WORKERS = {"groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "rayStartParams", "template"}


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    """The resources, by their kind."""
    return {one["kind"]: one for one in yaml.safe_load_all((ROOT / "tools" / "kuberay.yaml").read_text())}


def test_the_manifest_has_kuberays_fields_and_what_they_require(manifest: dict[str, Any]) -> None:
    job = manifest["RayJob"]
    assert job["apiVersion"] == "ray.io/v1"
    cluster = job["spec"]["rayClusterSpec"]
    assert set(job["spec"]) <= RAY_JOB
    assert set(cluster) <= CLUSTER
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert set(groups[0]) <= HEAD
    assert all({"groupName", "rayStartParams", "template"} <= set(group) <= WORKERS for group in groups[1:])
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        assert {"name", "image"} <= set(container)
        volumes = {volume["name"] for volume in group["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_the_manifests_ray_is_the_one_that_is_tested(manifest: dict[str, Any]) -> None:
    pins = (ROOT / "requirements" / "cpu.txt").read_text()
    pinned = re.search(r"^ray==(\S+)$", pins, re.MULTILINE)
    assert pinned
    assert manifest["RayJob"]["spec"]["rayClusterSpec"]["rayVersion"] == pinned[1]


def test_the_manifests_command_is_a_run_that_its_pods_have_room_for(manifest: dict[str, Any]) -> None:
    script, spec = manifest["ConfigMap"]["data"]["run.sh"], manifest["RayJob"]["spec"]
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mounted = {mount["name"]: mount["mountPath"] for mount in head["containers"][0]["volumeMounts"]}
    holds = next(volume["name"] for volume in head["volumes"] if volume.get("configMap") == {"name": "zero-run"})
    assert spec["entrypoint"] == f"bash {mounted[holds]}/run.sh"

    command = shlex.split(script[script.index("exec zero run") :])
    assert command[1:3] == ["zero", "run"]
    settings = [command[i + 1] for i, word in enumerate(command) if word == "--set"]
    output = re.search(r"^output=(\S+)$", script, re.MULTILINE)
    assert output
    assert output[1].startswith(f"{mounted['runs']}/")
    recipe = load_recipe(command[3], settings)
    assert recipe.cluster.address == "auto"
    assert servers_placed(recipe)

    workers = spec["rayClusterSpec"]["workerGroupSpecs"][0]
    limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    trainer, servers = bundles(recipe, gpus=True)
    assert len(trainer) + len(servers) == workers["replicas"]
    for bundle in [*trainer, *servers]:
        assert bundle["GPU"] == float(limits["nvidia.com/gpu"])
        assert bundle["CPU"] <= float(limits["cpu"])


def test_the_page_has_every_setting_and_no_other() -> None:
    page = (ROOT / "docs" / "clusters.md").read_text()
    table = page[page.index("| setting |") : page.index("`rollout.server.replicas` is the number")]
    first = " ".join(row.split("|")[1] for row in table.splitlines()[2:] if row.strip())
    named = {name.removeprefix("cluster.") for name in re.findall(r"`([\w.]+)`", first)}
    assert named == set(ClusterSettings.model_fields)
