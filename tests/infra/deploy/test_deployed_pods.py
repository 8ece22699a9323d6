"""Pods and clusters: each is valid to Kubernetes and confined, and no secret is written."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from support.deployed import CASES, GIVEN, KUBERNETES, SHARED, clusters, each_case, given, objects, templates

from infra.deploy import launcher, manifests, pods, render, stages
from infra.deploy.render import RenderConfig
from infra.deploy.values import Values


@pytest.mark.slow
@pytest.mark.parametrize("version", KUBERNETES)
@each_case
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


@each_case
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


@each_case
def test_only_the_autoscaler_has_a_token_of_kubernetes(chosen: Values) -> None:
    elastic = {f"{name} head" for name, spec in clusters(chosen).items() if spec.get("enableInTreeAutoscaling")}
    for name, template in templates(chosen).items():
        assert template["spec"]["automountServiceAccountToken"] is (name in elastic)
        assert template["spec"]["serviceAccountName"] == chosen.service_account


@each_case
def test_no_label_hides_the_head_from_its_service(chosen: Values) -> None:
    ours = {"app.kubernetes.io/part-of", "app.kubernetes.io/component"}  # KubeRay selects by name and created-by
    assert all(set(template["metadata"]["labels"]) == ours for template in templates(chosen).values())


@each_case
def test_every_cluster_asks_for_the_token(chosen: Values) -> None:
    for cluster in clusters(chosen).values():
        assert cluster["authOptions"] == {"mode": "token", "secretName": chosen.token_secret}
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            env = group["template"]["spec"]["containers"][0]["env"]
            assert {"name": "RAY_AUTH_MODE", "value": "token"} in env
        assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"


@each_case
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


@each_case
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
    bounds = render.bounds(given({"stages.train": train}))
    assert len(bounds) == len(stages.STAGES)
    assert "train: at most 3 attempts of 48 h on 2 x h100, 288 machine-hours" in bounds


@each_case
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


@each_case
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
