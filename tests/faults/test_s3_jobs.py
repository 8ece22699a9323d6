"""Encoding jobs on Ray whose S3 fails in the middle: what passes is outlived, and the store is that of a clean run."""

from __future__ import annotations

import collections
import itertools
import os
import random
from pathlib import Path

import pytest
from support.credentials import EXPIRED, give
from support.faulty_s3 import Fault, faulty
from support.material import Submit
from support.stores import SCRIPT

from infra.base import files
from infra.faults import encoding
from pipelines.latents import store

pytestmark = [pytest.mark.chaos, pytest.mark.long]
BLOCKS = ("--rows-per-file", "64")  # of 406 rows: seven
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def contents(path: str) -> tuple[store.Counts, str]:
    """Read counts and content hash of a finished store, whose files must be as its manifest says."""
    manifest = store.read_manifest(path)
    store.verify(path, manifest, contents=True)
    return manifest.counts, manifest.content_hash


class Failing:
    """Lets the first block pass; then of the requests for rows and checkpoints every third fails, but not again."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, str]] = set()
        self.kinds = itertools.cycle(["SlowDown", "stall", "reset", "cut", "SlowDown", "reset"])
        self.failed: collections.Counter[str] = collections.Counter()
        self.began = False

    def look(self, method: str, path: str) -> Fault:
        self.began |= method == "POST" and "/pairs_done/" in path
        if not self.began or not {"pairs", "pairs_done", "prompts", "prompts_done"} & set(path.split("/")):
            return None
        asked = (method, path)
        if asked in self.seen:
            return None
        self.seen.add(asked)
        if len(self.seen) % 3:
            return None
        kind = next(self.kinds)
        if kind == "stall" and self.failed[kind] == 3:  # each takes 15 s
            return None
        self.failed[kind] += 1
        return kind


def test_stalls_refusals_and_resets_in_a_job_change_nothing(
    bucket: str, encoded_store: Path, raw_pairs: Path, submit: Submit, tmp_path: Path
) -> None:
    path, failing = f"{bucket}/{tmp_path.name}/store", Failing()
    named = {name: os.environ[name] for name in (*KEYS, "AWS_DEFAULT_REGION")}
    with faulty(os.environ["AWS_ENDPOINT_URL"], failing.look) as url:
        submit(SCRIPT, "--source", str(raw_pairs), "--store", path, *BLOCKS, AWS_ENDPOINT_URL=url, **named)
    assert contents(path) == contents(str(encoded_store))
    assert set(failing.failed) == {"SlowDown", "stall", "reset", "cut"}


@pytest.mark.parametrize("seed", [0])
def test_sigkills_of_encoder_and_driver_lose_and_double_nothing(
    seed: int, bucket: str, encoded_store: Path, raw_pairs: Path, ray_environment: dict[str, str], tmp_path: Path
) -> None:
    path, drawn = f"{bucket}/{tmp_path.name}/store", encoding.strikes(random.Random(seed), ("encoder", "driver"), 25)
    flags = ["--source", str(raw_pairs), "--encoders", "2", "--rows-per-file", str(encoding.BLOCK)]
    named = {name: os.environ[name] for name in (*KEYS, "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL")}
    found = encoding.run_round(ray_environment, flags, path, drawn, tmp_path / "store.log", named)
    assert (found.counts, found.content_hash) == contents(str(encoded_store)) == contents(path)


class Expiring:
    """Takes the first key until so many blocks are written, and from then on the second alone."""

    def __init__(self, blocks: int) -> None:
        self.key, self.left = "first", blocks

    def takes(self, key: str) -> bool:
        return key == self.key

    def look(self, method: str, path: str) -> Fault:
        self.left -= method == "POST" and "/pairs_done/" in path and "uploadId=" in path
        if self.key == "first" and self.left < 0:
            self.key = "second"
            return "ExpiredToken"
        return None


def test_keys_that_expire_in_a_job_are_one_sentence_and_with_fresh_ones_it_goes_on(
    bucket: str, encoded_store: Path, raw_pairs: Path, submit: Submit, tmp_path: Path
) -> None:
    path, expiring, key_file = f"{bucket}/{tmp_path.name}/store", Expiring(3), tmp_path / "credentials"
    named = dict.fromkeys(KEYS, "") | {
        "AWS_SHARED_CREDENTIALS_FILE": str(key_file),
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": os.environ["AWS_DEFAULT_REGION"],
    }
    flags = (SCRIPT, "--source", str(raw_pairs), "--store", path, *BLOCKS)
    give(key_file, "first")
    with faulty(os.environ["AWS_ENDPOINT_URL"], expiring.look, expiring.takes) as url:
        ended = submit(*flags, check=False, AWS_ENDPOINT_URL=url, **named)
        assert ended.returncode != 0
        (message,) = {
            line for line in ended.stdout.splitlines() if line.startswith("error: ")
        }  # Ray may repeat the end
        assert EXPIRED in message
        assert not files.exists(files.join(path, store.MANIFEST))
        before = files.list_files(files.join(path, "pairs", "status=kept"))
        assert before
        give(key_file, "second")
        submit(*flags, AWS_ENDPOINT_URL=url, **named)
    assert contents(path) == contents(str(encoded_store))
    assert set(before) <= set(files.list_files(files.join(path, "pairs", "status=kept")))  # what was done counts
