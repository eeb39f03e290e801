"""Kubernetes objects of `cluster/`: fields, NPUs, and what Ray's autoscaler makes of them."""

from __future__ import annotations

import copy
from typing import Any

import kubernetes_validate
import pytest
import ray
import yaml
from ray.autoscaler._private.kuberay import autoscaling_config

from tests.cluster.manifests import CLUSTER, KINDS, cluster_spec, groups, objects

FILES = [
    file.name
    for file in sorted(CLUSTER.glob("*.yaml"))
    if "\napiVersion: " in f"\n{file.read_text(encoding='utf-8')}"
]
RAY_FILES = ["raycluster.yaml", "rayjob.yaml"]
NPUS = "huawei.com/Ascend910"
VERSION = "1.31"
"""Of Kubernetes: the oldest one that schemas are taken of."""


def problems(thing: dict[str, Any]) -> list[str]:
    """What is wrong with the fields of an object and of its pods."""
    kind = thing.get("apiVersion", ""), thing.get("kind", "")
    found = [f"unknown kind {kind}"] if kind not in KINDS else []
    if not thing.get("metadata", {}).keys() & {"name", "generateName"}:
        found.append("metadata: name is missing")
    if kind in KINDS and "spec" in thing:
        found += KINDS[kind].problems(thing["spec"], "spec")
    if thing.get("kind") in ("RayCluster", "RayJob") and not found:
        for group in groups(thing):
            template = group["template"]
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": template["spec"]}
            try:
                kubernetes_validate.validate(pod, VERSION, strict=True)
            except kubernetes_validate.ValidationError as error:
                found.append(f"{'.'.join(map(str, error.path))}: {error.message}")
    return found


@pytest.mark.parametrize("file", FILES)
def test_fields_are_those_of_the_kinds(file: str) -> None:
    for thing in objects(file):
        assert problems(thing) == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("spec", "enableAutoscaling"), True, "spec: enableAutoscaling is unknown"),
        (
            ("spec", "workerGroupSpecs", 0, "maxReplicas"),
            None,
            "spec.workerGroupSpecs[0]: maxReplicas is missing",
        ),
        (
            ("spec", "headGroupSpec", "template", "spec", "containers", 0, "volumeMount"),
            [],
            "'volumeMount' was unexpected",
        ),
        (
            ("spec", "headGroupSpec", "template", "spec", "containers", 0, "ports", 0, "containerPort"),
            "gcs",
            "'gcs' is not of type 'integer'",
        ),
    ],
)
def test_wrong_fields_are_found(path: tuple[str | int, ...], value: Any, said: str) -> None:
    """The check of the other test is one."""
    (thing,) = objects("raycluster.yaml")
    thing = copy.deepcopy(thing)
    *parents, last = path
    inner: Any = thing
    for key in parents:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    assert any(said in problem for problem in problems(thing))


@pytest.mark.parametrize("file", RAY_FILES)
def test_all_nodes_have_the_ray_of_this_environment(file: str) -> None:
    (thing,) = objects(file)
    assert cluster_spec(thing)["rayVersion"] == ray.__version__
    assert len({group["template"]["spec"]["containers"][0]["image"] for group in groups(thing)}) == 1


@pytest.mark.parametrize("file", RAY_FILES)
def test_volumes_and_mounts_belong_together(file: str) -> None:
    (thing,) = objects(file)
    for group in groups(thing):
        spec = group["template"]["spec"]
        mounts = {m["name"] for c in spec["containers"] for m in c.get("volumeMounts", [])}
        assert mounts == {volume["name"] for volume in spec.get("volumes", [])}


@pytest.mark.parametrize("file", RAY_FILES)
def test_workers_have_npus_their_driver_and_shared_memory_and_heads_have_not(file: str) -> None:
    (thing,) = objects(file)
    head, *workers = (group["template"]["spec"]["containers"][0] for group in groups(thing))
    assert NPUS not in head["resources"]["limits"]
    assert {"name": "ASCEND_VISIBLE_DEVICES", "value": "void"} in head["env"]
    assert workers
    for worker in workers:
        # A device plugin's resources cannot be promised twice.
        assert worker["resources"]["requests"][NPUS] == worker["resources"]["limits"][NPUS]
        mounts = {mount["mountPath"] for mount in worker["volumeMounts"]}
        assert {"/usr/local/Ascend/driver", "/usr/local/dcmi", "/dev/shm", "/etc/hccn.conf"} <= mounts
        assert not any(mount.startswith("/usr/local/Ascend/ascend-toolkit") for mount in mounts)


@pytest.mark.parametrize("file", RAY_FILES)
def test_pods_wait_for_rows_before_they_end(file: str) -> None:
    (thing,) = objects(file)
    for group in groups(thing):
        spec = group["template"]["spec"]
        assert spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"] == ["vidgen-drain"]
        assert spec["terminationGracePeriodSeconds"] == 600
    head = groups(thing)[0]["template"]["spec"]["containers"][0]
    (wait,) = (int(each["value"]) for each in head["env"] if each["name"] == "RAY_JOB_STOP_WAIT_TIME_S")
    assert wait < 600


@pytest.mark.parametrize("file", RAY_FILES)
def test_the_autoscaler_knows_what_a_worker_has(file: str) -> None:
    """What Ray's autoscaler reads of the cluster: a gang that waits for NPUs makes it add a worker."""
    (thing,) = objects(file)
    cluster = {"metadata": {"name": "vidgen", "namespace": "default"}, "spec": cluster_spec(thing)}
    config = autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)
    head, worker = config["available_node_types"]["headgroup"], config["available_node_types"]["npu"]
    assert head["resources"]["CPU"] == 0
    assert "NPU" not in head["resources"]
    container = groups(thing)[1]["template"]["spec"]["containers"][0]
    assert worker["resources"]["NPU"] == int(container["resources"]["limits"][NPUS])
    assert worker["resources"]["CPU"] == int(container["resources"]["limits"]["cpu"])
    assert worker["max_workers"] >= worker["min_workers"]


def test_the_permanent_cluster_grows_from_nothing_and_that_of_one_run_has_a_fixed_size() -> None:
    (permanent,), (job,) = objects("raycluster.yaml"), objects("rayjob.yaml")
    (group,) = permanent["spec"]["workerGroupSpecs"]
    assert permanent["spec"]["enableInTreeAutoscaling"]
    assert (group["minReplicas"], group["replicas"]) == (0, 0)
    assert group["maxReplicas"] > 0
    # Kueue refuses a RayJob that grows.
    assert "enableInTreeAutoscaling" not in job["spec"]["rayClusterSpec"]
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"] > 0
    assert job["spec"]["shutdownAfterJobFinishes"]


def test_both_files_say_the_same_of_pods() -> None:
    """They differ in how many there are, and in the run file that the job's head has."""
    (permanent,), (job,) = objects("raycluster.yaml"), objects("rayjob.yaml")
    pods = [[group["template"]["spec"] for group in groups(thing)] for thing in (permanent, job)]
    (head, worker), (job_head, job_worker) = pods
    assert worker == job_worker
    del job_head["volumes"], job_head["containers"][0]["volumeMounts"]
    assert head == job_head


@pytest.mark.parametrize(
    ("file", "label", "queues"),
    [
        ("rayjob.yaml", "kueue.x-k8s.io/queue-name", "kueue.yaml"),
        ("rayjob.yaml", "volcano.sh/queue-name", "volcano.yaml"),
        ("raycluster.yaml", "volcano.sh/queue-name", "volcano.yaml"),
    ],
)
def test_labels_in_comments_name_queues_that_the_cluster_fits_in(file: str, label: str, queues: str) -> None:
    (thing,) = objects(file, uncomment=label)
    assert problems(thing) == []
    defined = {each["kind"]: each for each in objects(queues)}
    queue = defined["LocalQueue" if "kueue" in label else "Queue"]
    assert thing["metadata"]["labels"][label] == queue["metadata"]["name"]
    if "kueue" in label:
        whole = defined["ClusterQueue"]
        assert queue["spec"]["clusterQueue"] == whole["metadata"]["name"]
        (resources,) = whole["spec"]["resourceGroups"]
        (flavor,) = resources["flavors"]
        assert flavor["name"] == defined["ResourceFlavor"]["metadata"]["name"]
        quota = {each["name"]: each["nominalQuota"] for each in flavor["resources"]}
        assert set(resources["coveredResources"]) == set(quota)
    else:
        quota = queue["spec"]["capability"]
    (group,) = cluster_spec(thing)["workerGroupSpecs"]
    head, worker = (
        each["template"]["spec"]["containers"][0]["resources"]["limits"] for each in groups(thing)
    )
    for name, need in worker.items():
        needed = group["maxReplicas"] * amount(need) + amount(head.get(name, "0"))
        assert needed <= amount(quota[name]), name


def amount(quantity: str) -> int:
    """A number of Kubernetes; memory in GiB."""
    return int(quantity.removesuffix("Gi"))


def test_prometheus_scrapes_a_port_that_pods_have() -> None:
    (monitor,) = objects("pod-monitor.yaml")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for file in RAY_FILES:
        for group in groups(objects(file)[0]):
            ports = {port["name"] for port in group["template"]["spec"]["containers"][0]["ports"]}
            assert endpoint["port"] in ports


def test_ray_accepts_the_config_of_ray_up() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((CLUSTER / "ray-up.yaml").read_text(encoding="utf-8"))
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    hosts = len(config["provider"]["worker_ips"])
    assert config["min_workers"] == config["max_workers"] == hosts
    (worker,) = (kind for name, kind in prepared["available_node_types"].items() if "head" not in name)
    assert worker["min_workers"] == hosts
    options = " ".join(config["docker"]["run_options"])
    (thing,) = objects("raycluster.yaml")
    for volume in groups(thing)[1]["template"]["spec"]["volumes"]:
        if "hostPath" in volume:
            assert f"-v {volume['hostPath']['path']}:" in options
