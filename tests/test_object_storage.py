"""What is found out about S3 before a job starts: one sentence for each thing that stands in the way, and no secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore import exceptions
from moto import mock_aws
from moto.core import set_initial_no_auth_action_count

from infra import files, object_storage
from infra.errors import UserError

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
    return boto3.client("s3"), bucket.removeprefix(files.S3)


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


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Stand in for AWS itself, with a bucket in another region than the environment's; yields its client there."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    files._s3.cache_clear()  # a client keeps the region that it found
    with mock_aws():
        there = boto3.client("s3", region_name="eu-west-1")
        there.create_bucket(Bucket="far", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        there.create_bucket(Bucket="owned", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        yield there
    files._s3.cache_clear()


@pytest.mark.usefixtures("aws")
def test_a_bucket_in_another_region() -> None:
    assert told("s3://far/run") == "the bucket is in region eu-west-1, not us-east-1; set AWS_DEFAULT_REGION"


@pytest.fixture
def policed(aws: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Have credentials looked at; yields a function that gives the environment those of a user with some rights."""
    iam = boto3.client("iam")

    def become(*actions: str) -> None:
        with_rights = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
        policy = {"Version": "2012-10-17", "Statement": [with_rights]}
        iam.create_user(UserName="trainer")
        iam.put_user_policy(UserName="trainer", PolicyName="rights", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName="trainer")["AccessKey"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        files._s3.cache_clear()

    with set_initial_no_auth_action_count(3):  # those that make the user
        yield become


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
def test_each_right_is_tried(policed: Any, missing: str, words: str) -> None:
    policed(*(right for right in ALL if right != missing))
    assert told("s3://owned/run") == f"these AWS credentials may not {words} there"


def test_all_four_rights_are_enough(policed: Any) -> None:
    policed(*ALL)
    object_storage.check("--output", "s3://owned/run")


def test_wrong_credentials(policed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policed(*ALL)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert told("s3://owned/run") == "the AWS credentials are wrong (SignatureDoesNotMatch)"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN")
    assert told("s3://owned/run") == "the AWS credentials are wrong (InvalidAccessKeyId)"


def test_no_credentials(aws: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    assert aws
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    assert told("s3://far/run").startswith("no AWS credentials were found; give them by the environment")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("ExpiredToken", "the AWS credentials have expired"),
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
    policed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    policed(*ALL)
    object_storage.abort_uploads("s3://owned/run")
    assert "s3://owned/run: S3 lets us not list or end unfinished uploads" in capsys.readouterr().err
