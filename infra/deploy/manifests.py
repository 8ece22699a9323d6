"""KubeRay's objects: a RayJob for each stage, a RayCluster to work on, and the account that their pods run as."""

from __future__ import annotations

from infra.deploy import pods
from infra.deploy.pods import Object
from infra.deploy.stages import STAGES, entrypoint
from infra.deploy.values import Group, Stage, Values

API = "ray.io/v1"


def service_account(values: Values) -> Object:
    """Return the account of all pods, which an IAM role may stand behind."""
    annotations = {"eks.amazonaws.com/role-arn": values.role_arn} if values.role_arn else {}
    about = {"name": values.service_account, "namespace": values.namespace, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": about}


def ray_job(values: Values, stage: str, ray_version: str) -> Object:
    """Return a stage as a RayJob: a cluster of its own, a command, and new attempts that go on where the last ended.

    Each attempt gets a new cluster, the same submission id and the same command, which resumes from its output.
    """
    group: Stage = getattr(values.stages, stage)
    name = f"{values.name}-{stage}"
    return {
        "apiVersion": API,
        "kind": "RayJob",
        "metadata": _metadata(values, name, stage),
        "spec": {
            "entrypoint": entrypoint(STAGES[stage](values)),
            "jobId": name,
            "submissionMode": "K8sJobMode",  # the submitter's pod may be lost without the job
            "backoffLimit": group.retries,
            "activeDeadlineSeconds": group.attempt_seconds,  # KubeRay counts anew at each attempt
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": values.ttl_seconds,
            "submitterPodTemplate": pods.submitter_pod(values),
            "rayClusterSpec": _cluster(values, stage, group, ray_version),
        },
    }


def ray_cluster(values: Values, ray_version: str) -> Object:
    """Return a RayCluster that stays, for interactive use."""
    return {
        "apiVersion": API,
        "kind": "RayCluster",
        "metadata": _metadata(values, f"{values.name}-interactive", "interactive"),
        "spec": _cluster(values, "interactive", values.interactive, ray_version),
    }


def _metadata(values: Values, name: str, component: str) -> Object:
    return {"name": name, "namespace": values.namespace, "labels": pods.labels(values, component)}


def _cluster(values: Values, name: str, group: Group, ray_version: str) -> Object:
    spec: Object = {
        "rayVersion": ray_version,
        "authOptions": {"mode": "token", "secretName": values.token_secret},
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "rayStartParams": {"num-cpus": "0"},  # the driver's machine takes no task
            "template": pods.ray_pod(values, "head", values.machines["head"], group.workers.elastic),
        },
        "workerGroupSpecs": [
            {
                "groupName": name,
                "replicas": group.workers.min,
                "minReplicas": group.workers.min,
                "maxReplicas": group.workers.max,
                "rayStartParams": {},
                "template": pods.ray_pod(values, name, values.machine(group)),
            }
        ],
    }
    if group.workers.elastic:
        spec["enableInTreeAutoscaling"] = True
        # The operator adds its container to the head's pod; it gets the same limits as all others.
        spec["autoscalerOptions"] = {"version": "v2", "idleTimeoutSeconds": 300, "securityContext": pods.security()}
        for group_spec in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            group_spec["template"]["spec"]["restartPolicy"] = "Never"  # what that autoscaler asks for
    return spec
