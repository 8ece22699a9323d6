"""The project on Ceph's S3 server, which none of its authors wrote: preflight, a store, a run, uploads, refusals."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import numpy as np
import pytest
from support import radosgw
from support.locks import taken, taker
from support.material import Submit, notes
from support.s3_runs import contents, losses
from support.stores import SCRIPT
from support.trained_models import train_until_killed

from infra.base import files, object_storage
from infra.base.errors import UserError
from infra.base.object_lock import EXPIRY
from pipelines.latents import label_files, store
from training.checkpoints import checkpoint
from training.checkpoints.run_folder import RESULT, is_finished
from training.data.opened import open_store
from training.data.staging import stage
from training.run import assembly, loop
from training.settings.config import TrainConfig

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.long,
    pytest.mark.skipif(not radosgw.is_installed(), reason=f"needs Ceph's programs: {radosgw.INSTALL}"),
]
NAMES = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Hold Ceph's server and one bucket, named in the environment as users do it; yields the bucket's path."""
    with radosgw.running(tmp_path_factory.mktemp("ceph")) as server, pytest.MonkeyPatch.context() as patched:
        for name, value in zip(NAMES, (server.url, server.key, server.secret, "us-east-1"), strict=True):
            patched.setenv(name, value)
        boto3.Session().client("s3").create_bucket(Bucket="dpo-test")
        yield "s3://dpo-test"


def message(path: str) -> str:
    """Return the one sentence of a refusal."""
    with pytest.raises(UserError) as refused:
        object_storage.check("--store", path)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_good_keys_may_do_everything_and_nothing_stays(ceph: str, monkeypatch: pytest.MonkeyPatch) -> None:
    object_storage.check("--store", f"{ceph}/nowhere/yet")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")  # radosgw has no regions, and takes any
    object_storage.check("--store", f"{ceph}/nowhere/yet")
    assert files.list_files(f"{ceph}/nowhere") == []


def test_what_stands_in_the_way_is_one_sentence(ceph: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert message("s3://not-there/store") == "--store s3://not-there/store: there is no bucket not-there"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    wrong = f"--store {ceph}/store: the AWS credentials are wrong"
    assert message(f"{ceph}/store") == f"{wrong} (SignatureDoesNotMatch)"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    assert message(f"{ceph}/store") == f"{wrong} (InvalidAccessKeyId)"


def test_a_stranger_may_not_write_where_all_may_read(ceph: str, monkeypatch: pytest.MonkeyPatch) -> None:
    s3 = boto3.Session().client("s3")
    s3.create_bucket(Bucket="others")
    s3.put_bucket_acl(Bucket="others", ACL="public-read")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", radosgw.STRANGER)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", radosgw.STRANGER)
    may_not = "these AWS credentials may not"
    assert message("s3://others/store") == f"--store s3://others/store: {may_not} write (s3:PutObject) there"
    assert message(f"{ceph}/store") == f"--store {ceph}/store: {may_not} list (s3:ListBucket) there"


def test_a_store_written_there_is_the_store_on_disk(
    ceph: str, encoded_store: Path, raw_pairs: Path, submit: Submit, tmp_path: Path
) -> None:
    path, surroundings = f"{ceph}/store", {name: os.environ[name] for name in NAMES}
    flags = ("--source", str(raw_pairs), "--store", path)
    submit(SCRIPT, *flags, **surroundings)
    there, here = store.read_manifest(path), store.read_manifest(str(encoded_store))
    assert (there.counts, there.content_hash) == (here.counts, here.content_hash)
    store.verify(path, there, contents=True)
    assert label_files.read_labels(path, "human")[0].equals(label_files.read_labels(str(encoded_store), "human")[0])
    one, other = open_store(path, str(tmp_path / "there")), stage(str(encoded_store), str(tmp_path / "here"))
    assert (one.pair_ids == other.pair_ids).all()
    every = np.arange(len(one.pair_ids))
    captions = np.unique(one.prompt_rows)
    for found, copied in (
        (one.latents.begin(every)(), other.latents.begin(every)()),
        (one.prompts.begin(captions)(), other.prompts.begin(captions)()),
    ):
        assert all((rows == copied[name]).all() for name, rows in found.items())
    before = files.stamps(path)
    assert "already finished, nothing to do" in submit(SCRIPT, *flags, **surroundings).stdout
    assert files.stamps(path) == before
    secret = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    assert not [name for name in files.list_files(path) if secret in files.read_bytes(name)]


def test_a_killed_run_goes_on_from_its_checkpoint_there_bit_for_bit(
    ceph: str, config: TrainConfig, tmp_path: Path
) -> None:
    straight = replace(config, steps=4, data=replace(config.data, micro_batch=8))
    remote = replace(straight, output=f"{ceph}/run")
    loop.train(straight, assembly.Rank())
    train_until_killed(remote, 3)
    assert checkpoint.complete_steps(remote.output) == [2]
    loop.train(replace(remote, data=replace(remote.data, cache=str(tmp_path / "empty"))), assembly.Rank())
    assert is_finished(remote.output, 4)
    assert losses(notes(remote.output)) == losses(notes(straight.output))
    weights = "unet/diffusion_pytorch_model.safetensors"
    here, there = (contents(files.join(run.output, RESULT)) for run in (straight, remote))
    assert there[weights] == here[weights]


def test_one_writer_alone_holds_a_folder_there(ceph: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = f"{ceph}/locked"
    first = taken(folder)
    second, _ = taker(folder, first.check)
    with pytest.raises(UserError, match="another job is writing here"):
        second.take()
    third, clock = taker(folder)
    third.take()
    assert clock.now == EXPIRY
    with pytest.raises(UserError, match="another job took over"):
        first.check()
    third.give_back()
    taken(folder).check()
    assert capsys.readouterr().err == ""  # radosgw looks at conditions


def test_a_file_of_several_parts_arrives_and_an_upload_of_a_killed_writer_is_ended(ceph: str, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom((12 << 20) + 1))
    assert files.copy(str(path), f"{ceph}/uploads/large") == files.sha256(f"{ceph}/uploads/large")
    s3 = boto3.Session().client("s3")
    for key in ("uploads/run/a.bin", "uploads/run-2/b.bin"):
        begun = s3.create_multipart_upload(Bucket="dpo-test", Key=key)
        s3.upload_part(Bucket="dpo-test", Key=key, UploadId=begun["UploadId"], PartNumber=1, Body=b"sent")
    object_storage.abort_uploads(f"{ceph}/uploads/run")
    left = s3.list_multipart_uploads(Bucket="dpo-test")["Uploads"]
    assert [upload["Key"] for upload in left] == ["uploads/run-2/b.bin"]
