"""Kubernetes objects of `cluster/`, and what is known of their kinds.

Pods have their schema in kubernetes_validate. Kinds of operators do not: `KINDS` has the fields of their CRDs
that these files may name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from docs.generate import ROOT

CLUSTER = ROOT / "cluster"


@dataclass(frozen=True)
class Fields:
    """The fields of a mapping in a CRD.

    Args:
        required: Those that must be there.
        optional: Those that may.
        inner: Field -> the fields of the mapping, or of each mapping in the list, that it holds.
    """

    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    inner: Mapping[str, Fields] = field(default_factory=dict)

    def problems(self, value: Any, where: str) -> Iterator[str]:
        """What is wrong with a value."""
        if isinstance(value, list):
            for number, item in enumerate(value):
                yield from self.problems(item, f"{where}[{number}]")
            return
        if not isinstance(value, dict):
            yield f"{where}: is no mapping"
            return
        for name in sorted(self.required - value.keys()):
            yield f"{where}: {name} is missing"
        for name in sorted(value.keys() - self.required - self.optional):
            yield f"{where}: {name} is unknown"
        for name in sorted(self.inner.keys() & value.keys()):
            yield from self.inner[name].problems(value[name], f"{where}.{name}")


def fields(required: str = "", optional: str = "", **inner: Fields) -> Fields:
    return Fields(frozenset(required.split()), frozenset(optional.split()), inner)


# KubeRay 1.7.0. A pod's template is checked as a pod.
RAY_CLUSTER = fields(
    "headGroupSpec",
    "authOptions autoscalerOptions enableInTreeAutoscaling gcsFaultToleranceOptions headServiceAnnotations "
    "managedBy rayVersion suspend upgradeStrategy workerGroupSpecs",
    authOptions=fields("", "enableK8sTokenAuth mode secretName"),
    autoscalerOptions=fields(
        "",
        "args command env envFrom idleTimeoutSeconds image imagePullPolicy resources securityContext "
        "upscalingMode version volumeMounts",
    ),
    headGroupSpec=fields("template", "enableIngress headService labels rayStartParams resources serviceType"),
    workerGroupSpecs=fields(
        "groupName minReplicas maxReplicas template",
        "idleTimeoutSeconds labels numOfHosts priority rayStartParams replicas resources scaleStrategy "
        "suspend",
    ),
)
RAY_JOB = fields(
    "",
    "activeDeadlineSeconds backoffLimit clusterSelector deletionStrategy entrypoint entrypointNumCpus "
    "entrypointResources jobId managedBy metadata preRunningDeadlineSeconds rayClusterSpec runtimeEnvYAML "
    "shutdownAfterJobFinishes submissionMode submitterConfig submitterPodTemplate suspend "
    "ttlSecondsAfterFinished",
    rayClusterSpec=RAY_CLUSTER,
)
NAMED_QUOTA = fields("name nominalQuota", "borrowingLimit lendingLimit")
KINDS: Mapping[tuple[str, str], Fields] = {
    ("ray.io/v1", "RayCluster"): RAY_CLUSTER,
    ("ray.io/v1", "RayJob"): RAY_JOB,
    # Kueue 0.15.
    ("kueue.x-k8s.io/v1beta2", "ResourceFlavor"): fields(
        "", "nodeLabels nodeTaints tolerations topologyName"
    ),
    ("kueue.x-k8s.io/v1beta2", "LocalQueue"): fields("", "clusterQueue fairSharing stopPolicy"),
    ("kueue.x-k8s.io/v1beta2", "ClusterQueue"): fields(
        "",
        "admissionChecksStrategy admissionScope cohortName fairSharing flavorFungibility namespaceSelector "
        "preemption queueingStrategy resourceGroups stopPolicy",
        resourceGroups=fields(
            "coveredResources flavors",
            flavors=fields("name resources", resources=NAMED_QUOTA),
        ),
    ),
    # Volcano 1.12.
    ("scheduling.volcano.sh/v1beta1", "Queue"): fields(
        "",
        "affinity capability dequeueStrategy deserved extendClusters guarantee parent priority reclaimable "
        "type weight",
    ),
    # Prometheus operator 0.80.
    ("monitoring.coreos.com/v1", "PodMonitor"): fields(
        "selector podMetricsEndpoints",
        "attachMetadata jobLabel namespaceSelector podTargetLabels sampleLimit targetLimit",
        podMetricsEndpoints=fields("", "honorLabels interval path port relabelings scheme scrapeTimeout"),
    ),
}
"""(apiVersion, kind) -> the fields of its `spec`."""


def objects(file: str, *, uncomment: str = "") -> list[dict[str, Any]]:
    """The objects in a file of `cluster/`.

    Args:
        file: Its name.
        uncomment: A label whose line is taken out of its comment.
    """
    text = (CLUSTER / file).read_text(encoding="utf-8")
    if uncomment:
        assert text.count(f"# {uncomment}: ") == 1, f"{file}: {uncomment} is in no comment"
        text = text.replace(f"# {uncomment}: ", f"{uncomment}: ")
    return list(yaml.safe_load_all(text))


def cluster_spec(thing: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of the Ray cluster of a RayCluster or RayJob."""
    spec = thing["spec"]
    return spec["rayClusterSpec"] if thing["kind"] == "RayJob" else spec


def groups(thing: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The head's group and the workers' groups."""
    spec = cluster_spec(thing)
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
