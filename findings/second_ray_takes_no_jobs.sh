#!/usr/bin/env bash
# What happens: a second `ray start --head` on a machine, with ports of its own for GCS, dashboard and client, says that
#   Ray runtime started, and answers `ray job list`. Each `ray job submit` to it fails after some seconds: "No available
#   agent to submit job, please try again later". Two more tries do not help. The script takes two to five minutes.
# Versions: ray 2.60.0.
# Where: the agent of each node listens on port 52365 by default. ray/dashboard/http_server_agent.py tries six times to
#   bind; ray/dashboard/agent.py then logs that the agent stays alive without its HTTP server, through which jobs come.
# Who meets it: two people, or two projects, with a Ray cluster each on one workstation or login node; whoever labels
#   images on one cluster and trains on another.
# Guess that was wrong: other ports for GCS, dashboard and client are enough for two clusters, and a taken port is an error.
# Instead: give each its own --dashboard-agent-listen-port as well; the reason stands in logs/dashboard_agent.log alone.
set -euo pipefail
folder=$(mktemp -d /tmp/ray-XXXXXX)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "ray[default]==2.60.0"
cd "$folder"
cat > heads.py <<'PYTHON'
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from importlib.metadata import version

AGENT = "--dashboard-agent-listen-port"  # 52365 by default, on each head


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def end(head):
    """Ask a head's processes to end, and end them after 20 seconds."""
    os.killpg(head.pid, signal.SIGTERM)
    try:
        head.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()


def start(stack, name, *more):
    """Start a head node, and return the address of its job server once that answers."""
    gcs, dashboard, client = free_ports(3)
    command = ["ray", "start", "--head", "--block", "--num-cpus=1", "--object-store-memory=100000000"]
    command += [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    command += [f"--temp-dir={os.path.join(os.getcwd(), name)}", "--disable-usage-stats", *more]
    log = open(f"{name}.log", "w")
    head = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    stack.callback(end, head)
    address = f"http://127.0.0.1:{dashboard}"
    for _ in range(20):
        if subprocess.run(["ray", "job", "list", "--address", address], capture_output=True).returncode == 0:
            return address
        time.sleep(1)
    sys.exit(f"the {name} head did not start: {open(f'{name}.log').read()[-500:]}")


def submit(address):
    """Submit a job that does nothing, three times at most; return whether one was taken, and the last answer."""
    for _ in range(3):
        told = subprocess.run(["ray", "job", "submit", "--address", address, "--", "true"], capture_output=True, text=True)
        if told.returncode == 0:
            break
    return told.returncode == 0, "No available agent" in told.stdout + told.stderr


with ExitStack() as stack:
    default, other = free_ports(2)  # stands for the default, which a Ray of this machine may have already
    first = submit(start(stack, "a", f"{AGENT}={default}"))
    second = submit(start(stack, "b", f"{AGENT}={default}"))
    own = submit(start(stack, "c", f"{AGENT}={other}"))
    started = "Ray runtime started" in open("b.log").read()
print(f"ray {version('ray')}; job taken, and whether the answer was 'No available agent'")
print("guess: each head takes the job")
print(f"seen:  first {first}, second {second} (it said that it started: {started}), third with an agent's port {own}")
if (first, second, own, started) != ((True, False), (False, True), (True, False), True):
    sys.exit("the behaviour has changed")
PYTHON
(umask 077 && python3 -c "import secrets; print(secrets.token_hex(32), end='')" > token)
export PATH="$folder/venv/bin:$PATH" RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$folder/token"
unset RAY_ADDRESS RAY_API_SERVER_ADDRESS
python3 heads.py
