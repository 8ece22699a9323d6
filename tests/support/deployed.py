"""The example's values with changes, the cases that are rendered, and the pods and clusters that come of them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from infra.base.files import ROOT
from infra.deploy import manifests, pods, stages
from infra.deploy.values import Values

VALUES = ROOT / "infra" / "deploy" / "values.yaml"
KUBERNETES = ("1.29", "1.37")
GIVEN: dict[str, Any] = yaml.safe_load(VALUES.read_text())


def changed_values(changed: dict[str, Any]) -> dict[str, Any]:
    """Return the example as its file has it, with some values changed; a path is written with dots."""
    values = copy.deepcopy(GIVEN)
    for path, value in changed.items():
        *folders, name = path.split(".")
        functools.reduce(dict.__getitem__, folders, values)[name] = value
    return values


def given(changed: dict[str, Any] | None = None) -> Values:
    """Return the example's values, with some changed."""
    return Values.model_validate(changed_values(changed or {}))


NO_GPUS = {"cpus": 14, "memory": "56Gi", "gpus": 0, "scratch": "200Gi", "instance": "m6i.4xlarge", "node_labels": {}}
SHARED = {"claim": "diffusion-dpo-shared", "path": "/mnt/shared", "nfs": "fs-00000000.efs.us-west-2.amazonaws.com:/"}
CASES = {
    "example": given(),  # wholly on S3
    "shared disk": given({"shared": SHARED, "data.run": "/mnt/shared/runs/sd15", "data.store": "/mnt/shared/store"}),
    "hub": given({"data.source": "yuvalkirstain/pickapic_v2"}),
    "secrets": given({"aws_secret": "aws", "hub_secret": "hub", "endpoint": "https://minio:9000"}),
    "iam": given({"role_arn": "arn:aws:iam::123456789012:role/dpo", "data.validation_prompts": "s3://bucket/some.txt"}),
    "filtered": given(
        {
            "safety": {
                "prompt_blocklist": "s3://bucket/words.txt",
                "safety_checker": "CompVis/stable-diffusion-safety-checker",
                "safety_revision": "refs/pr/41",
            }
        }
    ),
    "fixed": given({"stages.train.workers": {"min": 2, "max": 2}}),
    "cpu": given({"variant": "cpu", "machines": dict.fromkeys(GIVEN["machines"], NO_GPUS)}),
}

each_case = pytest.mark.parametrize("chosen", list(CASES.values()), ids=list(CASES))


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Walk over every mapping in a document."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from objects(each)


def clusters(chosen: Values) -> dict[str, dict[str, Any]]:
    """Return the specification of each Ray cluster by the stage it is for."""
    jobs = {stage: manifests.ray_job(chosen, stage, "2.60.0")["spec"]["rayClusterSpec"] for stage in stages.STAGES}
    return jobs | {"interactive": manifests.ray_cluster(chosen, "2.60.0")["spec"]}


def templates(chosen: Values) -> dict[str, dict[str, Any]]:
    """Return the template of each kind of pod by its name."""
    found = {"submitter": pods.submitter_pod(chosen)}
    for name, cluster in clusters(chosen).items():
        found[f"{name} head"] = cluster["headGroupSpec"]["template"]
        found |= {f"{name} {group['groupName']}": group["template"] for group in cluster["workerGroupSpecs"]}
    return found
