"""The launcher of AWS and the image: each machine has what the commands need."""

from __future__ import annotations

import copy
import re

from support.deployed import each_case, given, objects

from infra.base.files import ROOT
from infra.deploy import launcher, pods, render
from infra.deploy.values import Values


@each_case
def test_the_launcher_file_is_valid_to_ray(chosen: Values) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config  # what `ray up` calls

    prepared = prepare_config(copy.deepcopy(launcher.aws_cluster(chosen)))
    validate_config(prepared)
    assert prepared["available_node_types"]["worker"]["max_workers"] == chosen.interactive.workers.max


def test_the_launcher_starts_a_cluster_that_asks_for_the_token() -> None:
    config = launcher.aws_cluster(given())
    options = config["docker"]["run_options"]
    assert "--env RAY_AUTH_MODE=token" in options
    assert "--cap-drop ALL" in options
    assert config["file_mounts"] == {"/home/dpo/.ray/auth_token": "~/.ray/auth_token"}
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert {node["node_config"]["IamInstanceProfile"]["Name"] for node in config["available_node_types"].values()} == {
        "diffusion-dpo-head",
        "diffusion-dpo-worker",
    }


def test_a_launched_machine_has_a_disk_for_its_scratch_and_the_image() -> None:
    types = launcher.aws_cluster(given({"machines.head.scratch": "1500Mi"}))["available_node_types"]
    sizes = {}
    for name, node in types.items():
        (disk,) = node["node_config"]["BlockDeviceMappings"]
        assert (disk["DeviceName"], disk["Ebs"]["VolumeType"]) == ("/dev/sda1", "gp3")
        sizes[name] = disk["Ebs"]["VolumeSize"]
    assert sizes == {"head": 2 + 80, "worker": 400 + 80}  # GiB, whole ones: 1500 MiB are 1.46


@each_case
def test_every_image_is_this_versions(chosen: Values) -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    images = {
        each["image"] for document in render.documents(chosen).values() for each in objects(document) if "image" in each
    }
    expected = f"registry.example.com/diffusion-dpo:{version[1]}-{chosen.variant}"
    assert images - {chosen.image} == {expected}  # values.yaml names it without a tag


def test_the_ray_version_is_the_pinned_one() -> None:
    assert f"ray=={render.pinned('ray')}" in (ROOT / "constraints.txt").read_text().splitlines()
    found = [document for document in render.documents(given()).values() for document in objects(document)]
    assert {each["rayVersion"] for each in found if "rayVersion" in each} == {render.pinned("ray")}


def test_the_image_is_built_as_the_pods_expect_it() -> None:
    lines = (ROOT / "infra" / "deploy" / "Dockerfile").read_text().splitlines()
    assert lines[-1] == f"USER {pods.UID}:{pods.UID}"  # a number: Kubernetes must see that it is not root's
    assert any(f"useradd --uid {pods.UID} " in line for line in lines)
    assert any(line.split()[:2] == ["ENV", f"HOME={launcher.HOME}"] for line in lines)
    assert not [line for line in lines if re.match("(ARG|ENV) .*(TOKEN|SECRET|PASSWORD|KEY)", line)]
    installs = [line for line in lines if "pip install" in line and "--no-deps" not in line]
    assert installs
    assert all("--constraint constraints.txt" in line for line in installs)
    # PyTorch's own index beside PyPI, not in its place: it has not every version that constraints.txt wants.
    (cpu,) = [line.split()[1] for line in lines if line.lstrip().startswith("cpu)")]
    assert cpu == 'index="--extra-index-url'
    (packages,) = [line.split() for line in lines if "apt-get install" in line]
    assert {"openssh-client", "rsync", "wget"} <= set(packages)


def test_the_image_has_every_package_and_nothing_else() -> None:
    lines = (ROOT / "infra" / "deploy" / "Dockerfile").read_text().splitlines()
    copied = {
        name for line in lines if line.startswith("COPY ") and "--from" not in line for name in line.split()[1:-1]
    }
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == sent
    assert {"infra", "labelers", "pipelines", "training", "constraints.txt"} <= copied
    assert all((ROOT / name).exists() for name in copied)
