"""Credentials files whose keys expire."""

from __future__ import annotations

import os
from pathlib import Path

from infra.base import object_storage

EXPIRED = f"the AWS credentials have expired; {object_storage.RENEW}"


def give(path: Path, key: str) -> None:
    """Write an access key into a credentials file, later than what was there."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\naws_session_token = t\n")
    os.utime(path, ns=(before + 10**9, before + 10**9))
