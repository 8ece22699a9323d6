"""S3's refusals in words, before a job starts and in its middle; and what boto3 alone does: to try, to end uploads."""

from __future__ import annotations

import re
import sys
import uuid
from typing import Any
from urllib.parse import urlsplit

from botocore import exceptions

from infra.base import files, s3_filesystem
from infra.base.errors import UserError, chain

EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired")
RENEW = "renew them where the AWS settings say, then give the same command again"
UNKNOWN = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidClientTokenId", "InvalidToken")
ELSEWHERE = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301")
DENIED = ("AccessDenied", "AllAccessDisabled", "403")
RIGHTS = {
    "ListObjectsV2": "list (s3:ListBucket)",
    "HeadBucket": "list (s3:ListBucket)",
    "PutObject": "write (s3:PutObject)",
    "CreateMultipartUpload": "write (s3:PutObject)",
    "UploadPart": "write (s3:PutObject)",
    "CompleteMultipartUpload": "write (s3:PutObject)",
    "GetObject": "read (s3:GetObject)",
    "HeadObject": "read (s3:GetObject)",
    "DeleteObject": "delete (s3:DeleteObject)",
    "DeleteObjects": "delete (s3:DeleteObject)",
}
_SAID = re.compile(  # by pyarrow
    r"AWS Error (?P<kind>\w+)(?: \(HTTP status (?P<status>\d+)\))? during (?P<operation>\w+) operation: "
    r"(?:Unable to parse ExceptionName: (?P<code>\w+) )?(?P<rest>.*)"
)
_PLACE = re.compile(r"(?:key '(?P<key>[^']*)' )?(?:in|existence of) bucket '(?P<bucket>[^']+)'")


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
        client = open_client()
        client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
        there = client.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
        # A server of one's own may call its one region anything; AWS sends pyarrow away from all but the bucket's.
        if there and there != client.meta.region_name and s3_filesystem.endpoint() is None:
            raise UserError(f"{flag} {path}: {_elsewhere(client.meta.region_name, there)}")
        _try_key(client, bucket, "/".join(part for part in (prefix, f".check-{uuid.uuid4().hex}") if part))
    except (exceptions.BotoCoreError, exceptions.ClientError, ValueError) as error:
        # Without the error itself: what a traceback shows of a request may hold a signature.
        raise UserError(f"{flag} {path}: {reason(error, bucket)}") from None


def open_client(silence: float = 20.0) -> Any:
    """Make a client that takes endpoint and region as pyarrow does, which does the work.

    Args:
        silence: seconds without a byte after which a request is tried again, five times in all.
    """
    import boto3  # not on the way of those who have nothing on S3
    from botocore.config import Config

    server = s3_filesystem.endpoint()
    region = files.open_filesystem(files.S3)[0].region
    style = {"addressing_style": "path"} if server else None  # few servers of one's own have a name per bucket
    settings = Config(connect_timeout=5, read_timeout=silence, s3=style)
    return boto3.Session().client("s3", region_name=region, config=settings)


def _try_key(client: Any, bucket: str, key: str) -> None:
    content = key.encode()
    client.put_object(Bucket=bucket, Key=key, Body=content)
    try:
        received = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    finally:
        client.delete_object(Bucket=bucket, Key=key)
    if received != content:
        raise ValueError("what was written there is read back as something else")


def reason(error: Exception, bucket: str) -> str:
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
            return f"no S3 server answers at {_server()} ({type(error).__name__})"
    return f"S3 cannot be used ({type(error).__name__})"


def _server() -> str:
    server = urlsplit(s3_filesystem.endpoint() or "https://s3.amazonaws.com")
    return f"{server.hostname}:{server.port}" if server.port else str(server.hostname)


def _refusal(error: exceptions.ClientError, bucket: str) -> str:
    code = str(error.response.get("Error", {}).get("Code"))
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = error.response.get("Error", {}).get("Region") or headers.get("x-amz-bucket-region")
    return _words(code, error.operation_name, bucket, region)


def _words(code: str, operation: str, bucket: str, region: str | None = None) -> str:
    if code in ("NoSuchBucket", "404"):
        return f"there is no bucket {bucket}"
    if code in EXPIRED:
        return f"the AWS credentials have expired; {RENEW}"
    if code in UNKNOWN:
        return f"the AWS credentials are wrong ({code})"
    if code in ELSEWHERE:
        return _elsewhere(None, region)
    if code == "RequestTimeTooSkewed":
        return "this machine's clock differs too much from S3's"
    if code in DENIED:
        return f"these AWS credentials may not {RIGHTS.get(operation, operation)} there"
    return f"S3 refused {operation} ({code})"


def explain(error: OSError) -> str:
    """Say in one line why pyarrow could not do on S3 what it was to, without the server's own words.

    An answer to HEAD has no body and so no reason; S3 is then asked for something else that has one.
    """
    said = _SAID.search(str(error))
    place = _PLACE.search(str(error))
    if said is None:
        return "S3 cannot be used"
    kind = said["kind"]
    operation = said["operation"]
    bucket = place["bucket"] if place else ""
    if kind == "NETWORK_CONNECTION":
        return f"S3 at {_server()} did not answer, or not to the end, however often it was asked"
    if bucket and said["rest"].startswith("No response body") and kind != "NO_SUCH_KEY":
        try:
            open_client().list_objects_v2(Bucket=bucket, MaxKeys=1)
        except (exceptions.BotoCoreError, exceptions.ClientError) as refusal:
            return reason(refusal, bucket)
    named = f"HTTP status {said['status']}" if kind == "UNKNOWN" else kind.title().replace("_", "")
    return _words(said["code"] or named, operation, bucket)


def refusal_in(error: BaseException | None) -> UserError | None:
    """Find the sentence for the user in exceptions wrapped in one another: a refusal of ours, or S3's in words."""
    of_s3: OSError | None = None
    for one in chain(error):
        if isinstance(one, UserError) and not hasattr(one, "cause"):  # Ray's wrapping is a UserError, too
            return one
        if isinstance(one, OSError) and "AWS Error" in str(one):
            of_s3 = one  # the innermost: Ray's own repeat whole tracebacks
    if of_s3 is None:
        return None
    place = _PLACE.search(str(of_s3))
    where = f"{files.S3}{place['bucket']}/{place['key'] or ''}: " if place else ""
    return UserError(f"{where}{explain(of_s3)}")


def _elsewhere(asked: str | None, there: str | None) -> str:
    region = f"in region {there}" if there else "in another region"
    return f"the bucket is {region}{f', not {asked}' if asked else ''}; set AWS_DEFAULT_REGION"


def abort_uploads(path: str) -> None:
    """End the unfinished uploads below an s3:// path: what a killed writer sent is not to be seen and yet paid for."""
    bucket, _, prefix = path.removeprefix(files.S3).partition("/")
    client = open_client()
    try:
        pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        for upload in [upload for page in pages for upload in page.get("Uploads", [])]:
            client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    except exceptions.ClientError as error:
        if error.response.get("Error", {}).get("Code") not in (*DENIED, "NotImplemented"):
            raise OSError(_refusal(error, bucket)) from None
        print(f"{path}: S3 does not let this run end unfinished uploads; those of killed runs stay", file=sys.stderr)
    except exceptions.BotoCoreError as error:
        raise OSError(reason(error, bucket)) from None
