"""Try the whole path on a running cluster: `python infra/smoke.py --address http://HOST:8265 --folder FOLDER`.

The steps are commands that a user submits: encode, relabel, train two steps, generate, score. They use the embedded
world, which is installed on the cluster with the project. A finished step is not done again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.base import files
from infra.base.errors import UserError
from infra.local import steps as local_steps
from infra.local.steps import Step

WORLD = "infra/world"
PAIRS = f"{WORLD}/pairs/pairs-0000.parquet"


@dataclass(frozen=True)
class SmokeConfig:
    """Flags of the smoke run. The token comes from RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, as for any Ray command."""

    address: str
    """The cluster's job server, http://HOST:8265."""
    folder: str
    """Folder to write, which all nodes reach: on a shared disk, or s3://."""


def steps(config: SmokeConfig) -> list[Step]:
    """List the steps: what each is for, and its command."""
    folder = config.folder.rstrip("/")
    store = f"{folder}/store"
    images = f"{folder}/images"
    run = f"{folder}/run"
    train = ["python", "training/train_dpo.py", "--store", store, "--labels", "pickscore", "--output", run]
    sizes = ["--steps", "2", "--checkpoint-every", "2", "--global-batch", "8", "--micro-batch", "8"]
    generate = ["python", "pipelines/generate.py", "--model", f"{run}/result", "--output", images]
    return [
        ("encode", ["python", "pipelines/encode_latents.py", "--source", PAIRS, "--store", store]),
        ("relabel", ["python", "labelers/relabel.py", "--source", PAIRS, "--store", store]),
        ("train", [*train, *sizes]),
        ("generate", [*generate, "--prompts", f"{WORLD}/prompts/test.txt", "--limit", "4", "--sampling-steps", "4"]),
        ("score", ["python", "pipelines/score.py", "--images", images]),
    ]


def environment(address: str) -> dict[str, str]:
    """Return the environment of `ray` commands for a cluster; its address replaces any that the shell names."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "RAY_API_SERVER_ADDRESS": address}


def main(config: SmokeConfig) -> None:
    """Submit the whole path to a running cluster with tiny inputs, and stop at the first step that fails."""
    if not (config.folder.startswith(files.S3) or os.path.isabs(config.folder)):
        raise UserError(f"--folder {config.folder}: give an absolute path on a shared disk, or s3://")
    surroundings = environment(config.address)
    check_answers(config.address, surroundings)
    done: list[str] = []
    listed = steps(config)
    for number, (name, command) in enumerate(listed, 1):
        submitted = ["ray", "job", "submit", "--address", config.address, "--", *command]
        print(f"\n[{number}/{len(listed)}] {name}\n$ {' '.join(submitted)}", flush=True)
        started = time.monotonic()
        code = local_steps.run_step(submitted, surroundings)
        if code:
            raise UserError(
                f"step {number} of {len(listed)} ({name}) failed with exit code {code}, after: "
                f"{', '.join(done) or 'nothing'}; the same command goes on from there"
            )
        done.append(f"{name} {time.monotonic() - started:.0f} s")
    print(f"\nall {len(listed)} steps passed on {config.address}: {', '.join(done)}", flush=True)


def check_answers(address: str, surroundings: Mapping[str, str]) -> None:
    """Refuse an address where no job server answers, or one that refuses the token.

    Raises:
        UserError: with the last line of Ray's message.
    """
    command = ["ray", "job", "list", "--address", address]
    asked = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    if asked.returncode:
        said = [line for line in asked.stderr.splitlines() if line.strip()]
        reason = said[-1].strip() if said else "no answer"
        raise UserError(f"--address {address}: no job server takes this command ({reason}); check address and token")
