"""What is deployed: every command exists with every flag, every pod is valid and confined, no secret is written."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from support.parsed_commands import parsed

from infra.base.errors import UserError
from infra.base.files import ROOT
from infra.deploy import launcher, manifests, pods, render, scratch, stages, values
from infra.deploy.render import RenderConfig
from infra.deploy.values import Values
from pipelines.drawing import generate_config
from pipelines.latents import encode_config

VALUES = ROOT / "infra" / "deploy" / "values.yaml"
KUBERNETES = ("1.29", "1.37")
GIVEN: dict[str, Any] = yaml.safe_load(VALUES.read_text())


def told(changed: dict[str, Any]) -> dict[str, Any]:
    """Return the example as its file has it, with some values changed; a path is written with dots."""
    values_told = copy.deepcopy(GIVEN)
    for path, value in changed.items():
        *folders, name = path.split(".")
        functools.reduce(dict.__getitem__, folders, values_told)[name] = value
    return values_told


def given(changed: dict[str, Any] | None = None) -> Values:
    """Return the example's values, with some changed."""
    return Values.model_validate(told(changed or {}))


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


@pytest.fixture(params=CASES)
def chosen(request: pytest.FixtureRequest) -> Values:
    return CASES[request.param]


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


# Commands


@pytest.mark.parametrize("stage", stages.STAGES)
def test_every_command_is_one_of_the_projects_with_flags_it_has(
    stage: str, chosen: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in stages.STAGES[stage](chosen):
        assert parsed(command, monkeypatch) is not None


def test_a_flag_that_is_gone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        parsed([*stages.encode(given())[0], "--decoders", "2"], monkeypatch)


def test_the_stages_meet_in_store_run_and_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = given()
    (encode,), (reference,), (train,) = (
        [parsed(command, monkeypatch) for command in stages.STAGES[stage](chosen)]
        for stage in ("encode", "reference", "train")
    )
    base, policy, score, report = [parsed(command, monkeypatch) for command in stages.evaluate(chosen)]
    assert {encode.store, reference.store, train.data.store, report.store} == {chosen.data.store}
    assert train.data.reference == reference.name
    assert (policy.model, report.train, train.output) == (f"{train.output}/result", train.output, chosen.data.run)
    assert base.model == encode.model == reference.model == train.model
    assert score.images == (base.output, policy.output) == (report.base, report.policy)
    assert report.judge in score.scorers
    # One worker per GPU: one or two machines of eight.
    assert (train.min_workers, train.workers) == (8, 16)
    assert (encode.gpus_per_encoder, reference.gpus_per_copy) == (1, 1)


def test_the_filter_is_the_encoders_and_the_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = CASES["filtered"]
    (encode,), (*_, flag, report) = (
        [parsed(command, monkeypatch) for command in stages.STAGES[stage](chosen)] for stage in ("encode", "evaluate")
    )
    assert asdict(encode.safety) == asdict(flag.safety) == chosen.safety.model_dump()
    assert flag.images == (report.base, report.policy)
    assert not any("flag_images" in word for command in stages.evaluate(given()) for word in command)


def test_what_is_trained_on_is_what_relabel_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = given({"data.label_scorers": ["clip", "pickscore"], "data.labels": "pickscore"})
    (relabel,), (train,) = (
        [parsed(command, monkeypatch) for command in stages.STAGES[stage](chosen)] for stage in ("relabel", "train")
    )
    assert (relabel.source, relabel.store) == (chosen.data.source, chosen.data.store)
    assert (relabel.scorer, relabel.weights, relabel.speed.gpus_per_copy) == (("clip", "pickscore"), ("published",), 1)
    assert train.data.labels == "pickscore"
    assert parsed(stages.train(given())[0], monkeypatch).data.labels == "human"


@pytest.mark.parametrize("fraction", [0.0, 0.00001, 1.0])
def test_the_share_of_bad_rows_is_the_encoders(fraction: float, monkeypatch: pytest.MonkeyPatch) -> None:
    (command,) = stages.encode(given({"data.max_bad_fraction": fraction}))
    assert parsed(command, monkeypatch).max_bad_fraction == fraction


def test_without_gpus_a_machine_is_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = CASES["cpu"]
    train = parsed(stages.train(chosen)[0], monkeypatch)
    assert (train.min_workers, train.workers) == (1, 2)
    assert parsed(stages.encode(chosen)[0], monkeypatch).gpus_per_encoder is None


def test_the_presets_are_those_that_every_stage_has() -> None:
    from training.reference import reference_config
    from training.settings import presets

    every = (
        set(encode_config.PRESETS) & set(reference_config.PRESETS) & set(generate_config.PRESETS) & set(presets.PRESETS)
    )
    assert set(typing.get_args(Values.model_fields["preset"].annotation)) == every


@pytest.mark.parametrize("stage", stages.STAGES)
def test_a_command_reaches_the_driver_through_both_shells(stage: str, tmp_path: Path) -> None:
    """The operator writes the entry point into a shell script that calls ray; Ray joins what it gets for another."""
    chosen, noted = given(), tmp_path / "noted"
    note = f"import json, sys; open({str(noted)!r}, 'a').write(json.dumps(sys.argv[1:]) + chr(10))"
    for name, code in (("python", note), ("ray", "import shlex, sys; print(shlex.join(sys.argv[1:]))")):
        program = tmp_path / name
        program.write_text(f"#!{sys.executable}\n{code}\n")
        program.chmod(0o755)
    surroundings = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    entrypoint = manifests.ray_job(chosen, stage, "2.60.0")["spec"]["entrypoint"]
    submitted = subprocess.run(
        ["bash", "-ce", f"ray {entrypoint} ;"], env=surroundings, capture_output=True, text=True, check=True
    )
    subprocess.run(["bash", "-c", submitted.stdout], env=surroundings, check=True)
    ran = [["python", *json.loads(line)] for line in noted.read_text().splitlines()]
    assert ran == stages.STAGES[stage](chosen)


def test_evaluation_stops_at_the_first_failure() -> None:
    joined = stages.entrypoint([["false"], ["echo", "reached"]])
    done = subprocess.run(joined, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize(
    ("state", "applied"),
    [
        ("Complete SUCCEEDED", list(stages.STAGES)),
        ("Complete STOPPED", ["encode"]),  # so KubeRay tells of a job that was stopped
        ("Failed FAILED", ["encode"]),
    ],
)
def test_the_documented_loop_goes_on_only_after_success(state: str, applied: list[str], tmp_path: Path) -> None:
    (loop,) = re.findall(r"```\n(cd [^`]*for stage in [^`]*)```", (ROOT / "docs" / "deploy.md").read_text())
    (tmp_path / "runs" / "deploy" / "kubernetes").mkdir(parents=True)
    deployment, job = state.split()
    answers = (
        f"apply*) echo $3 >> {tmp_path}/applied ;; *.jobStatus*) echo {deployment} {job} ;; *) echo {deployment} ;;"
    )
    for name, code in (("kubectl", f'case "$*" in {answers} esac'), ("sleep", "kill $PPID")):
        (tmp_path / name).write_text(f"#!/bin/bash\n{code}\n")
        (tmp_path / name).chmod(0o755)
    subprocess.run(["bash", "-c", loop], cwd=tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert (tmp_path / "applied").read_text().split() == [f"{stage}.rayjob.yaml" for stage in applied]


# Pods and clusters


@pytest.mark.slow
@pytest.mark.parametrize("version", KUBERNETES)
def test_pods_and_account_are_valid_to_kubernetes(chosen: Values, version: str) -> None:
    for name, template in templates(chosen).items():
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        pod["metadata"] = {"name": "x", **template["metadata"]}
        assert kubernetes_validate.validate(pod, version, strict=True) == version, name
    kubernetes_validate.validate(manifests.service_account(chosen), version, strict=True)


def test_the_schemas_notice_a_field_in_the_wrong_place() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pods.submitter_pod(given())["spec"]}
    pod["spec"]["containers"][0]["runAsNonRoot"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="runAsNonRoot"):
        kubernetes_validate.validate(pod, KUBERNETES[-1], strict=True)


def test_every_container_is_confined(chosen: Values) -> None:
    contexts = [pod["spec"]["containers"][0]["securityContext"] for pod in templates(chosen).values()]
    for cluster in clusters(chosen).values():
        if cluster.get("enableInTreeAutoscaling"):  # the operator adds a container, with this context
            contexts.append(cluster["autoscalerOptions"]["securityContext"])
    for context in contexts:
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == context["runAsGroup"] == pods.UID > 0
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    for template in templates(chosen).values():
        spec = template["spec"]
        assert len(spec["containers"]) == 1
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec)
        assert all({"persistentVolumeClaim", "emptyDir"} & set(volume) for volume in spec.get("volumes", []))


def test_only_the_autoscaler_has_a_token_of_kubernetes(chosen: Values) -> None:
    elastic = {f"{name} head" for name, spec in clusters(chosen).items() if spec.get("enableInTreeAutoscaling")}
    for name, template in templates(chosen).items():
        assert template["spec"]["automountServiceAccountToken"] is (name in elastic)
        assert template["spec"]["serviceAccountName"] == chosen.service_account


def test_no_label_hides_the_head_from_its_service(chosen: Values) -> None:
    ours = {"app.kubernetes.io/part-of", "app.kubernetes.io/component"}  # KubeRay selects by name and created-by
    assert all(set(template["metadata"]["labels"]) == ours for template in templates(chosen).values())


def test_every_cluster_asks_for_the_token(chosen: Values) -> None:
    for cluster in clusters(chosen).values():
        assert cluster["authOptions"] == {"mode": "token", "secretName": chosen.token_secret}
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            env = group["template"]["spec"]["containers"][0]["env"]
            assert {"name": "RAY_AUTH_MODE", "value": "token"} in env
        assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_kuberay_knows_every_field(chosen: Values) -> None:
    """An API server drops what a resource's definition does not have, without a word; these are of KubeRay 1.6."""
    job = {"activeDeadlineSeconds", "backoffLimit", "entrypoint", "jobId", "rayClusterSpec", "shutdownAfterJobFinishes"}
    job |= {"submissionMode", "submitterPodTemplate", "ttlSecondsAfterFinished"}
    cluster = {"authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "headGroupSpec", "rayVersion"}
    group = {"groupName", "maxReplicas", "minReplicas", "rayStartParams", "replicas", "template"}
    for stage in stages.STAGES:
        assert set(manifests.ray_job(chosen, stage, "2.60.0")["spec"]) == job
    for spec in clusters(chosen).values():
        assert set(spec) <= cluster | {"workerGroupSpecs"}
        assert set(spec["headGroupSpec"]) == {"rayStartParams", "serviceType", "template"}
        assert all(set(each) == group for each in spec["workerGroupSpecs"])
        assert set(spec.get("autoscalerOptions", {})) <= {"idleTimeoutSeconds", "securityContext", "version"}


@pytest.mark.parametrize("stage", stages.STAGES)
def test_a_retried_job_is_the_same_job(stage: str) -> None:
    chosen = given()
    job = manifests.ray_job(chosen, stage, "2.60.0")
    group, spec = getattr(chosen.stages, stage), job["spec"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert spec["jobId"] == job["metadata"]["name"] == f"diffusion-dpo-{stage}"
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"]) == (group.retries, group.attempt_seconds)
    assert spec["shutdownAfterJobFinishes"] is True  # without it the next has no effect, and KubeRay refuses both
    assert spec["ttlSecondsAfterFinished"] == chosen.ttl_seconds
    assert "clusterSelector" not in spec  # nor does KubeRay retry on a cluster that it did not make
    assert spec["submitterPodTemplate"]["spec"]["restartPolicy"] in ("Never", "OnFailure")


def test_a_pod_that_is_told_to_go_has_its_stop_seconds(chosen: Values) -> None:
    from ray._private import ray_constants

    for name, template in templates(chosen).items():
        if name != "submitter":
            env = {each["name"]: each.get("value") for each in template["spec"]["containers"][0]["env"]}
            assert template["spec"]["terminationGracePeriodSeconds"] == int(env["RAY_JOB_STOP_WAIT_TIME_S"]) == 300
            assert env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] == "285"  # the rest is for Ray's own processes
    assert hasattr(ray_constants, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S")  # Ray still reads it


def test_the_bound_of_a_stage_counts_every_attempt() -> None:
    """KubeRay's deadline begins anew with each attempt: 3 attempts of 48 h on 2 machines are 3 x 48 x 2 = 288 h."""
    train = GIVEN["stages"]["train"] | {"attempt_seconds": 172800, "retries": 2}
    told = render.bounds(given({"stages.train": train}))
    assert len(told) == len(stages.STAGES)
    assert "train: at most 3 attempts of 48 h on 2 x h100, 288 machine-hours" in told


def test_workers_are_bounded_and_only_elastic_groups_scale(chosen: Values) -> None:
    groups = {stage: getattr(chosen.stages, stage) for stage in stages.STAGES} | {"interactive": chosen.interactive}
    for name, cluster in clusters(chosen).items():
        asked, machine = groups[name].workers, chosen.machine(groups[name])
        (group,) = cluster["workerGroupSpecs"]
        assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (asked.min, asked.min, asked.max)
        assert cluster.get("enableInTreeAutoscaling", False) is (asked.min < asked.max)
        pod = group["template"]["spec"]
        limits = pod["containers"][0]["resources"]["limits"]
        assert limits == pod["containers"][0]["resources"]["requests"]
        assert int(limits.get(pods.GPU, 0)) == machine.gpus
        assert bool(machine.gpus) is ("tolerations" in pod)
        assert pod["nodeSelector"] == machine.node_labels
        if asked.min < asked.max:  # what KubeRay demands of pods under its second autoscaler
            assert pod["restartPolicy"] == cluster["headGroupSpec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_every_pod_reaches_what_the_commands_write(chosen: Values) -> None:
    for name, template in templates(chosen).items():
        if name != "submitter":
            mounts = {each["name"]: each["mountPath"] for each in template["spec"]["containers"][0]["volumeMounts"]}
            assert set(mounts) == {each["name"] for each in template["spec"]["volumes"]}
            reached = ("s3://", f"{mounts['shared']}/") if "shared" in mounts else ("s3://",)
            written = (chosen.data.store, chosen.data.run, chosen.data.images)
            assert all(place.startswith(reached) for place in written)
            env = {each["name"]: each.get("value") for each in template["spec"]["containers"][0]["env"]}
            assert str(env["HF_HUB_CACHE"]).startswith(f"{mounts.get('shared', mounts['scratch'])}/")
            assert env["TMPDIR"] == mounts["scratch"]


def test_wholly_on_s3_nothing_is_shared_and_with_a_disk_every_machine_has_it() -> None:
    def documents(case: str) -> str:
        return yaml.safe_dump(render.documents(CASES[case]))

    assert not re.search("persistentVolumeClaim|nfs4|/mnt/", documents("example"))
    machines = launcher.aws_cluster(CASES["shared disk"])
    assert "--volume /mnt/shared:/mnt/shared" in machines["docker"]["run_options"]
    assert any(f"{SHARED['nfs']} /mnt/shared" in command for command in machines["initialization_commands"])
    # A head and workers for each of the five stages and for interactive use.
    assert documents("shared disk").count("claimName: diffusion-dpo-shared") == 2 * (5 + 1)


def test_secrets_are_named_and_never_written() -> None:
    chosen = CASES["secrets"]
    env = list(
        itertools.chain.from_iterable(
            container["env"]
            for template in templates(chosen).values()
            for container in template["spec"]["containers"]
            if "env" in container
        )
    )
    secret = [each for each in env if re.search("TOKEN$|KEY|SECRET|PASSWORD", each["name"])]
    assert {each["name"] for each in secret} == {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "HF_TOKEN",
    }
    for each in secret:
        assert "value" not in each
        chosen_key = each["valueFrom"]["secretKeyRef"]
        assert chosen_key["name"] in ("aws", "hub")
        assert chosen_key["key"] == each["name"]
        assert chosen_key.get("optional", False) is (each["name"] == "AWS_SESSION_TOKEN")  # lasting keys have none
    for document in render.documents(chosen).values():
        assert not any(each.get("kind") == "Secret" for each in objects(document))


def test_nothing_of_the_shell_that_renders_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "planted-secret")
    render.main(RenderConfig(output=str(tmp_path)))
    assert not any("planted-secret" in path.read_text() for path in tmp_path.rglob("*.yaml"))


# The AWS launcher


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


# Image


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


# Values and rendering


@pytest.mark.parametrize(
    ("changed", "refusal"),
    [
        ({"namespace": "Alignment"}, "namespace"),
        ({"preset": "sd16"}, "preset"),
        ({"image": "registry.example.com/diffusion-dpo:latest"}, "image"),
        ({"data.source": "s3://bucket/$(id)"}, "data.source"),
        ({"data.store": "s3://bucket/a store"}, "data.store"),
        ({"data.run": "relative/run"}, "data.run"),
        ({"data.source": "hf://datasets/$(id)"}, "data.source"),
        ({"data.source": "too/many/parts"}, "data.source"),
        ({"data.source": "--help"}, "data.source"),
        (
            {"data.run": "/mnt/shared/run"},
            "data.run: /mnt/shared/run is on no disk that all pods reach; give an s3:// path",
        ),
        (
            {"shared": SHARED, "data.run": "/other/run"},
            "data.run: /other/run is not on the shared disk; give a path below /mnt/shared",
        ),
        (
            {"shared": SHARED, "safety.prompt_blocklist": "/other/words.txt"},
            "safety.prompt_blocklist: /other/words.txt is not on the shared disk; give a path below /mnt/shared",
        ),
        ({"endpoint": "https://key:secret@minio"}, "endpoint"),
        ({"stages.train.workers": {"min": 3, "max": 2}}, "stages.train.workers: min 3 is above max 2"),
        (
            {"stages.encode.workers": {"min": 1, "max": 2}},
            "encode: min and max differ, but only train takes machines that come later",
        ),
        ({"stages.train.machine": "b200"}, "train: machine 'b200' is not under machines; choose one of"),
        ({"stages.train.machine": "head"}, "train: machine 'head' has 0 GPUs"),
        ({"data.labels": "clip"}, "data: labels 'clip': no stage makes this label set; choose one of human, pickscore"),
        ({"data.max_bad_fraction": 1.5}, "data.max_bad_fraction"),
        ({"safety.prompt_blocklist": "words.txt"}, "safety.prompt_blocklist"),
        ({"safety.safety_checker": "a $(b)"}, "safety.safety_checker"),
        ({"safety.safety_checker": "s3://bucket/checker"}, "safety.safety_checker"),
        (
            {"safety.safety_revision": "main"},
            "safety: safety_revision is given without a Hub name",
        ),
        ({"stop_seconds": 20}, "stop_seconds: Input should be greater than or equal to 30"),
        ({"ttl": 3}, "ttl: Extra inputs are not permitted"),
    ],
)
def test_bad_values_are_refused_by_file_and_name(changed: dict[str, Any], refusal: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(told(changed)))
    with pytest.raises(UserError, match=re.escape("mine.yaml: ") + ".*" + re.escape(refusal)):
        values.read(str(file))


@pytest.mark.parametrize("text", ["a: [", "", "- 1"])
def test_a_file_that_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=r"mine\.yaml: "):
        values.read(str(tmp_path / "mine.yaml"))
    with pytest.raises(UserError, match="there is no such file"):
        values.read(str(tmp_path / "none.yaml"))


def test_what_is_rendered_reads_back_and_names_its_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    render.main(RenderConfig(output=str(tmp_path)))
    written = {str(path.relative_to(tmp_path)): yaml.safe_load(path.read_text()) for path in tmp_path.rglob("*.yaml")}
    assert written == render.documents(given())
    told = [str(tmp_path / name) for name in render.documents(given())]
    told += [*render.bounds(given()), scratch.check(given(), str(VALUES))]
    assert capsys.readouterr().out.splitlines() == told
    assert values.read(str(tmp_path / "values.yaml")) == given()
    for name, document in written.items():
        if name.startswith("kubernetes/"):
            assert document["metadata"].get("namespace") == "alignment"
    assert not any(re.search(r"[&*]id\d", path.read_text()) for path in tmp_path.rglob("*.yaml"))  # no aliases
