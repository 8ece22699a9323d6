"""S3 as Arrow reads and writes it: which server and region, our timeouts and attempts, and changed credentials."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

SILENCE = 15.0  # seconds that S3 may send nothing in the middle of a request, before it is asked again


def endpoint() -> str | None:
    """Return the S3 server that the environment or the AWS settings file names; None for AWS itself."""
    if os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None
    in_environment = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return in_environment or _configured()[0]


def region() -> str | None:
    """Return the region that the environment or the AWS settings file names, which pyarrow itself does not read."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or _configured()[1]


def _configured() -> tuple[str | None, str | None]:
    path = Path(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config").expanduser()
    if not path.is_file():
        return None, None
    profile = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
    return _read_aws_settings(str(path), path.stat().st_mtime_ns, profile)


@functools.cache
def _read_aws_settings(_path: str, _written: int, _profile: str | None) -> tuple[str | None, str | None]:
    """Read endpoint and region of the chosen profile, as botocore merges its files; the arguments key the cache."""
    import botocore.session
    from botocore.exceptions import BotoCoreError

    session = botocore.session.Session()
    try:
        chosen = session.get_scoped_config()
        services = session.full_config.get("services", {}).get(chosen.get("services"), {})
    except BotoCoreError:  # no such profile, or no such file as a profile names: object_storage.check says which
        return None, None
    return services.get("s3", {}).get("endpoint_url") or chosen.get("endpoint_url"), chosen.get("region")


class _S3FileSystem(pafs.S3FileSystem):
    """S3 with our timeouts and attempts in every process: pyarrow's own forgets its attempts on the way to another."""

    server: str | None
    place: str | None  # the region

    def __reduce__(self) -> tuple[Any, ...]:
        return open_s3, (self.server, self.place)


@functools.cache  # a client keeps its connections
def _s3(
    server: str | None, place: str | None, attempts: int, silence: float, _credentials: int | None
) -> pafs.S3FileSystem:
    # Attempts wait longer and longer, with jitter, up to 20 s: ten outlive a minute of refusals, and where nothing is
    # sent at all they end within five minutes.
    filesystem = _S3FileSystem(
        endpoint_override=server,
        region=place,
        connect_timeout=min(5.0, silence),
        request_timeout=silence,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(attempts),
    )
    filesystem.server = server
    filesystem.place = place
    return filesystem


def open_s3(server: str | None, place: str | None) -> pafs.S3FileSystem:
    """Open S3 at a server, None: AWS's own, and in a region; one client serves all who ask for the same."""
    # S3-compatible servers know fewer checksum headers than AWS does.
    os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    return _s3(server, place, int(os.environ.get("AWS_MAX_ATTEMPTS", "10")), SILENCE, credentials_written())


def credentials_written() -> int | None:
    """Return when the file of credentials was written, in ns: a client reads it once, and another file needs another.

    Credentials of the environment, of a role or of a process it renews by itself.
    """
    path = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    return path.stat().st_mtime_ns if path.is_file() else None
