"""Render everything that is deployed from one file of values: `python infra/deploy/render.py --output runs/deploy`.

Writes kubernetes/ (a RayJob for each stage, a RayCluster, a service account), aws/cluster.yaml for `ray up`, and
values.yaml, the values that made them. Nothing is applied.
"""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from infra.base import cli, files
from infra.base.errors import UserError
from infra.base.places import PathText
from infra.deploy import launcher, manifests, scratch, values
from infra.deploy.pods import Object
from infra.deploy.stages import STAGES
from infra.deploy.values import Stage, Stages, Values


@dataclass(frozen=True)
class RenderConfig:
    """Flags of rendering."""

    values: PathText = "infra/deploy/values.yaml"
    """YAML file with what the deployment decides."""
    output: PathText = "runs/deploy"
    """Folder to write."""


def pinned(package: str) -> str:
    """Return a package's version in constraints.txt, which the image is built with.

    Raises:
        UserError: if it is not there.
    """
    path = files.ROOT / "constraints.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    for line in lines:
        name, _, version = line.partition("==")
        if name == package:
            return version
    raise UserError(
        f"{path}: it names no version of {package}, which the manifests need; render from a checkout of the repository"
    )


def documents(chosen: Values) -> dict[str, Object]:
    """Return every file of a deployment by its path below the output folder."""
    ray_version = pinned("ray")
    jobs = {f"kubernetes/{stage}.rayjob.yaml": manifests.ray_job(chosen, stage, ray_version) for stage in STAGES}
    return {
        "kubernetes/service-account.yaml": manifests.service_account(chosen),
        **jobs,
        "kubernetes/interactive.raycluster.yaml": manifests.ray_cluster(chosen, ray_version),
        "aws/cluster.yaml": launcher.aws_cluster(chosen),
        "values.yaml": chosen.model_dump(),
    }


def bounds(chosen: Values) -> list[str]:
    """List for each stage the machine-hours that all its attempts may cost at most."""
    lines = []
    for name in Stages.model_fields:
        stage: Stage = getattr(chosen.stages, name)
        hours = stage.most_seconds / 3600
        attempts = f"{stage.retries + 1} attempts of {stage.attempt_seconds / 3600:g} h"
        machines = f"{stage.workers.max} x {stage.machine}"
        lines.append(f"{name}: at most {attempts} on {machines}, {hours * stage.workers.max:g} machine-hours")
    return lines


def main(config: RenderConfig) -> None:
    """Render KubeRay manifests and an AWS launcher file from one file of values."""
    output = files.resolve(config.output)
    path = files.resolve(config.values)
    chosen = values.read(path)
    room = scratch.check(chosen, path)
    for name, document in documents(chosen).items():
        written = files.join(output, name)
        files.write_bytes(written, yaml.safe_dump(document, sort_keys=False, width=120).encode())
        print(written, flush=True)
    print(*bounds(chosen), room, sep="\n", flush=True)


if __name__ == "__main__":
    cli.run(main, RenderConfig)
