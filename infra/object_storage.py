"""What boto3 alone does on S3: find out before a job starts whether it may write there, and end unfinished uploads."""

from __future__ import annotations

import sys
import uuid
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore import exceptions
from botocore.config import Config

from infra import files
from infra.errors import UserError

EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired")
UNKNOWN = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidClientTokenId", "InvalidToken")
ELSEWHERE = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301")
DENIED = ("AccessDenied", "AllAccessDisabled", "403")
RIGHTS = {
    "ListObjectsV2": "list (s3:ListBucket)",
    "HeadBucket": "list (s3:ListBucket)",
    "PutObject": "write (s3:PutObject)",
    "GetObject": "read (s3:GetObject)",
    "DeleteObject": "delete (s3:DeleteObject)",
}


def check(flag: str, path: str) -> None:
    """Prove that a job may list, write, read and delete below an s3:// path, by doing it; other paths pass.

    Credentials, region and endpoint are those of the AWS environment, and no secret of theirs is told.

    Raises:
        UserError: naming the flag, and what stands in the way.
    """
    if not path.startswith(files.S3):
        return
    bucket, _, prefix = path.removeprefix(files.S3).partition("/")
    try:
        client = _client()
        client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
        there = client.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
        # A server of one's own may call its one region anything; AWS sends pyarrow away from all but the bucket's.
        if there and there != client.meta.region_name and files.endpoint() is None:
            raise UserError(f"{flag} {path}: {_elsewhere(client.meta.region_name, there)}")
        _try_key(client, bucket, "/".join(part for part in (prefix, f".check-{uuid.uuid4().hex}") if part))
    except (exceptions.BotoCoreError, exceptions.ClientError, ValueError) as error:
        # Without the error itself: what a traceback shows of a request may hold a signature.
        raise UserError(f"{flag} {path}: {_reason(error, bucket)}") from None


def _client() -> Any:
    """Make a client that takes endpoint and region as pyarrow does, which does the work."""
    server = files.endpoint()
    region = files.open_filesystem(files.S3)[0].region
    style = {"addressing_style": "path"} if server else None  # few servers of one's own have a name per bucket
    settings = Config(connect_timeout=5, read_timeout=20, s3=style)
    return boto3.Session().client("s3", region_name=region, config=settings)


def _try_key(client: Any, bucket: str, key: str) -> None:
    content = key.encode()
    client.put_object(Bucket=bucket, Key=key, Body=content)
    try:
        found = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    finally:
        client.delete_object(Bucket=bucket, Key=key)
    if found != content:
        raise ValueError("what was written there is read back as something else")


def _reason(error: Exception, bucket: str) -> str:
    """Say in words why S3 refused, without the server's own, which may repeat what it was sent."""
    if isinstance(error, exceptions.ClientError):
        return _refusal(error, bucket)
    match error:
        case exceptions.NoCredentialsError() | exceptions.PartialCredentialsError():
            return "no AWS credentials were found; give them by the environment, ~/.aws or the machine's role"
        case exceptions.ProfileNotFound():
            return "AWS_PROFILE names a profile that is in no AWS settings file"
        case exceptions.UnauthorizedSSOTokenError() | exceptions.SSOTokenLoadError() | exceptions.TokenRetrievalError():
            return "the AWS sign-on has expired; sign on again"
        case exceptions.CredentialRetrievalError() | exceptions.MetadataRetrievalError():
            return "AWS credentials could not be fetched from where the AWS settings say"
        case exceptions.ParamValidationError():
            return f"{bucket or 'nothing'} is no name of a bucket"
        case exceptions.ConnectionError() | exceptions.HTTPClientError():
            server = urlsplit(files.endpoint() or "https://s3.amazonaws.com")
            port = f":{server.port}" if server.port else ""
            return f"no S3 server answers at {server.hostname}{port} ({type(error).__name__})"
    return f"S3 cannot be used ({type(error).__name__})"


def _refusal(error: exceptions.ClientError, bucket: str) -> str:
    code, operation = str(error.response.get("Error", {}).get("Code")), error.operation_name
    if code in ("NoSuchBucket", "404"):
        return f"there is no bucket {bucket}"
    if code in EXPIRED:
        return "the AWS credentials have expired"
    if code in UNKNOWN:
        return f"the AWS credentials are wrong ({code})"
    if code in ELSEWHERE:
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = error.response.get("Error", {}).get("Region") or headers.get("x-amz-bucket-region")
        return _elsewhere(None, region)
    if code == "RequestTimeTooSkewed":
        return "this machine's clock differs too much from S3's"
    if code in DENIED:
        return f"these AWS credentials may not {RIGHTS.get(operation, operation)} there"
    return f"S3 refused {operation} ({code})"


def _elsewhere(asked: str | None, there: str | None) -> str:
    region = f"in region {there}" if there else "in another region"
    return f"the bucket is {region}{f', not {asked}' if asked else ''}; set AWS_DEFAULT_REGION"


def abort_uploads(path: str) -> None:
    """End the unfinished uploads below an s3:// path: what a killed writer sent is not to be seen and yet paid for."""
    bucket, _, prefix = path.removeprefix(files.S3).partition("/")
    client = _client()
    try:
        pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        for upload in [upload for page in pages for upload in page.get("Uploads", [])]:
            client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    except exceptions.ClientError as error:
        if error.response.get("Error", {}).get("Code") not in (*DENIED, "NotImplemented"):
            raise OSError(_refusal(error, bucket)) from None
        print(f"{path}: S3 does not let this run end unfinished uploads; those of killed runs stay", file=sys.stderr)
    except exceptions.BotoCoreError as error:
        raise OSError(_reason(error, bucket)) from None
