"""The pods of a Ray cluster on Kubernetes: their rights, their environment, and their machines."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from infra.deploy.values import Machine, Values

UID = 1000  # the Dockerfile's; also that of ubuntu on AWS machines, so that the container reads what they mount
SCRATCH = "/scratch"
GPU = "nvidia.com/gpu"
SESSION_TOKEN = "AWS_SESSION_TOKEN"  # noqa: S105  (a key's name; only temporary credentials have one)
TEARDOWN = 15  # seconds of a pod's stop_seconds in which Ray's own processes end
PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080}

Object = dict[str, Any]


def image(values: Values) -> str:
    """Return the image of this version of the project."""
    return f"{values.image}:{metadata.version('diffusion-dpo')}-{values.variant}"


def security() -> Object:
    """Return the security context of every container: an ordinary user who can become no other."""
    return {
        "runAsNonRoot": True,
        "runAsUser": UID,
        "runAsGroup": UID,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def settings(values: Values) -> dict[str, str]:
    """Return the environment of every Ray process, on Kubernetes and on AWS; no secret is in it."""
    environment = {
        # The operator sets this too. An operator too old to know authOptions drops them and would start an open
        # cluster. With this setting Ray refuses to start without a token.
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": str(values.stop_seconds),
        # A draining node takes no new work for this long, so that running work can end; Ray's own 30 s are too short.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(values.stop_seconds - TEARDOWN),
        "AWS_REGION": values.region,
        "AWS_DEFAULT_REGION": values.region,
        # On a shared disk a model is downloaded once for all nodes, else by each.
        "HF_HUB_CACHE": f"{values.shared.path if values.shared else SCRATCH}/huggingface",
        "TMPDIR": SCRATCH,  # memory-mapped copies of a store
        "TOKENIZERS_PARALLELISM": "false",
    }
    return environment | ({"AWS_ENDPOINT_URL": values.endpoint} if values.endpoint else {})


def ray_pod(values: Values, role: str, machine: Machine, autoscaler: bool = False) -> Object:
    """Return the template of a pod in which Ray runs.

    Args:
        role: head, or the name of a group of workers.
        autoscaler: whether Ray's autoscaler runs in it, which asks Kubernetes for workers.
    """
    mounts = {"scratch": SCRATCH}
    volumes: list[Object] = [{"name": "scratch", "emptyDir": {"sizeLimit": machine.scratch}}]
    if values.shared:
        mounts["shared"] = values.shared.path
        volumes.append({"name": "shared", "persistentVolumeClaim": {"claimName": values.shared.claim}})
    container = {
        "name": f"ray-{'head' if role == 'head' else 'worker'}",
        "image": image(values),
        "env": _environment(values),
        "resources": _resources(machine),
        "securityContext": security(),
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts.items()],
    }
    if role == "head":
        container["ports"] = [{"name": name, "containerPort": port} for name, port in PORTS.items()]
    spec = _pod(values, container) | {
        "automountServiceAccountToken": autoscaler,  # nothing else asks Kubernetes; an IAM role has a token of its own
        "terminationGracePeriodSeconds": values.stop_seconds,
        "nodeSelector": dict(machine.node_labels),
        "volumes": volumes,
    }
    if machine.gpus:
        spec["tolerations"] = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
    return {"metadata": {"labels": labels(values, role)}, "spec": spec}


def submitter_pod(values: Values) -> Object:
    """Return the template of the pod that submits a job and follows its log; the operator gives it the command."""
    container = {
        "name": "submitter",
        "image": image(values),
        "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        "securityContext": security(),
    }
    spec = _pod(values, container) | {"automountServiceAccountToken": False, "restartPolicy": "Never"}
    return {"metadata": {"labels": labels(values, "submitter")}, "spec": spec}


def labels(values: Values, component: str) -> dict[str, str]:
    """Return the labels by which everything of a deployment is found.

    Not app.kubernetes.io/name: KubeRay's service finds the head by its own value of that.
    """
    return {"app.kubernetes.io/part-of": values.name, "app.kubernetes.io/component": component}


def _pod(values: Values, container: Object) -> Object:
    return {
        "serviceAccountName": values.service_account,
        "securityContext": {"runAsNonRoot": True, "fsGroup": UID, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }


def _environment(values: Values) -> list[Object]:
    environment: list[Object] = [{"name": name, "value": value} for name, value in settings(values).items()]
    secrets = [
        (values.aws_secret, "AWS_ACCESS_KEY_ID"),
        (values.aws_secret, "AWS_SECRET_ACCESS_KEY"),
        (values.aws_secret, SESSION_TOKEN),
        (values.hub_secret, "HF_TOKEN"),
    ]
    for secret, key in secrets:
        if secret:
            chosen: Object = {"name": secret, "key": key} | ({"optional": True} if key == SESSION_TOKEN else {})
            environment.append({"name": key, "valueFrom": {"secretKeyRef": chosen}})
    return environment


def _resources(machine: Machine) -> Object:
    asked = {"cpu": str(machine.cpus), "memory": machine.memory}
    asked |= {GPU: str(machine.gpus)} if machine.gpus else {}
    return {"requests": asked, "limits": dict(asked)}  # equal: Ray must not count on memory that others may take
