"""Which commit of the repository runs."""

from __future__ import annotations

import shutil
import subprocess

from infra.base import files


def commit() -> str | None:
    """Return the first 12 digits of the checkout's commit; None outside a git checkout, as in an image."""
    git = shutil.which("git")
    if git is None or not (files.ROOT / ".git").exists():
        return None
    command = [git, "-C", str(files.ROOT), "rev-parse", "--short=12", "HEAD"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None
