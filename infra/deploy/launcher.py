"""A cluster on plain AWS machines, for `ray up`: the same image, settings and token, in one file."""

from __future__ import annotations

import math

from infra.deploy import pods
from infra.deploy.pods import Object
from infra.deploy.values import Machine, Values

HOME = "/home/dpo"  # the Dockerfile's
ROOM = 80 * 2**30  # of a machine's disk, for its system, the driver and the image, packed and unpacked
TOKEN = ".ray/auth_token"  # noqa: S105  (a file name: where Ray looks for the token in a home)


def aws_cluster(values: Values) -> Object:
    """Return the configuration of a cluster with the machines of interactive use; the dashboard keeps to loopback."""
    machine = values.machine(values.interactive)
    workers = values.interactive.workers
    environment = [f"--env {name}={value}" for name, value in pods.settings(values).items()]
    folders = [f"--volume {pods.SCRATCH}:{pods.SCRATCH}"]
    prepare = [f"sudo mkdir -p {pods.SCRATCH}", f"sudo chown {pods.UID}:{pods.UID} {pods.SCRATCH}"]
    if values.shared:
        path = values.shared.path
        folders.append(f"--volume {path}:{path}")
        mount = f"sudo mount -t nfs4 -o nfsvers=4.1,hard {values.shared.nfs} {path}"
        prepare += [f"sudo mkdir -p {path}", f"mountpoint -q {path} || {mount}"]
    hardened = ["--security-opt no-new-privileges", "--cap-drop ALL"]
    return {
        "cluster_name": values.name,
        "max_workers": workers.max,
        "idle_timeout_minutes": 15,
        "provider": {"type": "aws", "region": values.region, "cache_stopped_nodes": False},
        "auth": {"ssh_user": "ubuntu"},
        "docker": {
            "image": pods.image(values),
            "container_name": values.name,
            "pull_before_run": True,
            "run_options": [*hardened, *environment, *folders, "--ulimit nofile=65536:65536"],
        },
        "file_mounts": {f"{HOME}/{TOKEN}": f"~/{TOKEN}"},
        "initialization_commands": prepare,
        "head_node_type": "head",
        "available_node_types": {
            "head": {
                "node_config": _node(values, values.machines["head"], values.launcher.head_profile),
                "resources": {"CPU": 0},  # takes no task
            },
            "worker": {
                "node_config": _node(values, machine, values.launcher.worker_profile),
                "resources": {},  # those that AWS says it has
                "min_workers": workers.min,
                "max_workers": workers.max,
            },
        },
        "head_start_ray_commands": [
            "ray stop",
            "ray start --head --port=6379 --autoscaling-config=~/ray_bootstrap_config.yaml --dashboard-host=127.0.0.1",
        ],
        "worker_start_ray_commands": ["ray stop", "ray start --address=$RAY_HEAD_IP:6379"],
        "setup_commands": [],  # everything is in the image
        "head_setup_commands": [],
        "worker_setup_commands": [],
    }


def _node(values: Values, machine: Machine, profile: str) -> Object:
    disk = math.ceil((machine.scratch_bytes + ROOM) / 2**30)  # in GiB, of the root volume: Ubuntu's is /dev/sda1
    return {
        "ImageId": values.launcher.machine_image,
        "InstanceType": machine.instance,
        "IamInstanceProfile": {"Name": profile},
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": disk, "VolumeType": "gp3"}}],
    }
