"""What is found out about S3 before a job starts: one sentence for each thing that stands in the way, and no secret."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import exceptions
from moto import settings

from infra.base import files, object_storage, s3_filesystem
from infra.base.errors import UserError
from labelers.labels import relabel
from pipelines.drawing import generate
from pipelines.latents import encode_latents
from training.reference import encode_reference
from training.run import train_dpo
from training.settings.config import TrainConfig

SECRET = "PLANTED-7f3a9c"


def told(path: str) -> str:
    """Return the one sentence of a refusal."""
    with pytest.raises(UserError) as refused:
        object_storage.check("--output", path)
    sentence = str(refused.value)
    assert sentence.startswith(f"--output {path}: ")
    assert "\n" not in sentence
    assert SECRET not in sentence
    return sentence.removeprefix(f"--output {path}: ")


def client(bucket: str) -> tuple[Any, str]:
    return boto3.Session().client("s3"), bucket.removeprefix(files.S3)


def test_what_may_be_written_to_passes_and_nothing_stays_there(bucket: str) -> None:
    object_storage.check("--output", f"{bucket}/nowhere/yet")
    assert files.list_files(f"{bucket}/nowhere") == []
    object_storage.check("--output", "/a/local/path")


def test_a_bucket_that_is_not_there_or_is_none(bucket: str) -> None:
    assert bucket
    assert told("s3://not-there/run") == "there is no bucket not-there"
    assert told("s3://no_bucket!/run") == "no_bucket! is no name of a bucket"
    assert told("s3:///run") == "nothing is no name of a bucket"


def test_a_server_that_does_not_answer(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:9")  # discard: nobody listens
    assert told(f"{bucket}/run") == "no S3 server answers at 127.0.0.1:9 (EndpointConnectionError)"


def test_a_bucket_in_another_region(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client(bucket)[0].create_bucket(Bucket="far", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    object_storage.check("--output", "s3://far/run")  # a server of one's own takes any region
    monkeypatch.setattr(
        s3_filesystem, "endpoint", lambda: None
    )  # as where the server is AWS; boto3 still finds this one
    assert told("s3://far/run") == "the bucket is in region eu-west-1, not us-east-1; set AWS_DEFAULT_REGION"


@pytest.mark.parametrize("section", ["profile", "services"])
def test_endpoint_and_region_of_the_settings_file_are_the_data_path_s_too(
    bucket: str, section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """boto3 reads ~/.aws/config by itself; pyarrow, which moves the data, does not."""
    server = s3_filesystem.endpoint()
    assert server
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    given = {
        "profile": f"[profile mine]\nregion = eu-central-1\nendpoint_url = {server}\n",
        "services": "[profile mine]\nregion = eu-central-1\nservices = here\n"
        f"[services here]\ns3 =\n  endpoint_url = {server}\n",
    }
    (tmp_path / "config").write_text(given[section])
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("AWS_ENDPOINT_URL_IAM", server)
    filesystem, _ = files.open_filesystem(bucket)
    assert (filesystem.region, s3_filesystem.endpoint()) == ("eu-central-1", server)
    files.write_bytes(f"{bucket}/by-settings", b"x")
    assert files.read_bytes(f"{bucket}/by-settings") == b"x"
    assert copy.copy(filesystem).region == "eu-central-1"  # rebuilt as on its way to another process
    monkeypatch.setenv("AWS_PROFILE", "another")
    assert (s3_filesystem.endpoint(), s3_filesystem.region()) == (None, None)


@pytest.fixture
def policed(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that has credentials looked at, and puts a user's with some rights in the environment."""
    assert bucket
    iam = boto3.Session().client("iam")
    name = f"trainer-{uuid.uuid4().hex}"
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]

    def become(*actions: str) -> None:
        # AWS counts a look at a bucket as listing it, moto as a right of its own.
        granted = [*actions, *(["s3:HeadBucket"] if "s3:ListBucket" in actions else [])]
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": granted, "Resource": "*"}]}
        iam.put_user_policy(UserName=name, PolicyName="rights", PolicyDocument=json.dumps(policy))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        monkeypatch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0.0)

    return become


ALL = ("s3:ListBucket", "s3:PutObject", "s3:GetObject", "s3:DeleteObject")


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("s3:ListBucket", "list (s3:ListBucket)"),
        ("s3:PutObject", "write (s3:PutObject)"),
        ("s3:GetObject", "read (s3:GetObject)"),
        ("s3:DeleteObject", "delete (s3:DeleteObject)"),
    ],
)
def test_each_right_is_tried(bucket: str, policed: Callable[..., None], missing: str, words: str) -> None:
    policed(*(right for right in ALL if right != missing))
    assert told(f"{bucket}/run") == f"these AWS credentials may not {words} there"


def test_all_four_rights_are_enough(bucket: str, policed: Callable[..., None]) -> None:
    policed(*ALL)
    object_storage.check("--output", f"{bucket}/run")


def test_wrong_credentials(bucket: str, policed: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    policed(*ALL)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert told(f"{bucket}/run") == "the AWS credentials are wrong (SignatureDoesNotMatch)"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN")
    assert told(f"{bucket}/run") == "the AWS credentials are wrong (InvalidAccessKeyId)"


def test_no_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert told(f"{bucket}/run").startswith("no AWS credentials were found; give them by the environment")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("ExpiredToken", f"the AWS credentials have expired; {object_storage.RENEW}"),
        ("RequestTimeTooSkewed", "this machine's clock differs too much from S3's"),
        ("AuthorizationHeaderMalformed", "the bucket is in region eu-west-1; set AWS_DEFAULT_REGION"),
        ("SlowDown", "S3 refused PutObject (SlowDown)"),
    ],
)
def test_what_a_stand_in_does_not_say(bucket: str, monkeypatch: pytest.MonkeyPatch, code: str, words: str) -> None:
    answer = {"Error": {"Code": code, "Message": f"the key was {SECRET}", "Region": "eu-west-1"}}

    def refused(*_: Any) -> None:
        raise exceptions.ClientError(answer, "PutObject")  # type: ignore[arg-type]

    monkeypatch.setattr(object_storage, "_try_key", refused)
    assert told(f"{bucket}/run") == words


def test_unfinished_uploads_below_a_path_are_ended_and_others_are_left(bucket: str) -> None:
    s3, name = client(bucket)
    for key in ("uploads/run/a.bin", "uploads/run-2/b.bin"):
        s3.create_multipart_upload(Bucket=name, Key=key)
    object_storage.abort_uploads(f"{bucket}/uploads/run")
    left = s3.list_multipart_uploads(Bucket=name)["Uploads"]
    assert [upload["Key"] for upload in left] == ["uploads/run-2/b.bin"]


def test_a_missing_right_to_end_uploads_is_told_and_stops_nothing(
    bucket: str, policed: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    policed(*ALL)
    object_storage.abort_uploads(f"{bucket}/run")
    assert f"{bucket}/run: S3 does not let this run end unfinished uploads" in capsys.readouterr().err


@pytest.mark.slow
def test_the_commands_that_write_to_s3_look_before_they_do_anything(bucket: str) -> None:
    nowhere = "s3://not-there/folder"
    commands = {
        "--output": [
            lambda: train_dpo.main(TrainConfig(output=nowhere)),
            lambda: generate.main(generate.GenerateConfig(output=nowhere)),
        ],
        "--store": [
            lambda: encode_latents.main(encode_latents.EncodeConfig(store=nowhere)),
            lambda: encode_reference.main(encode_reference.ReferenceConfig(store=nowhere)),
            lambda: relabel.main(relabel.RelabelConfig(store=nowhere)),
        ],
    }
    assert bucket
    for flag, mains in commands.items():
        for main in mains:
            with pytest.raises(UserError, match=f"^{flag} {nowhere}: there is no bucket not-there$"):
                main()
