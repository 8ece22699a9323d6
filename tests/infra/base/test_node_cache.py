"""Copies on a node's disk: what a full disk and another user's folder say, and which setting they name."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from infra.base import node_cache
from infra.base.errors import UserError
from infra.base.node_cache import cache_folder, check_cache, staged_once


@pytest.mark.parametrize("setting", ["--cache", "TMPDIR"])
def test_a_full_disk_names_the_folder_and_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setattr(node_cache.shutil, "disk_usage", Mock(return_value=Mock(free=1000)))
    fill = Mock()
    message = rf"^{tmp_path}: 1,001 bytes are needed for a store, 1,000 are free; set {setting} to a folder on a larger"
    with pytest.raises(UserError, match=message):
        staged_once(str(tmp_path), "name", 1001, "a store", fill, setting)
    fill.assert_not_called()
    assert staged_once(str(tmp_path), "name", 1000, "a store", fill, setting) == tmp_path / "name"
    fill.assert_called_once()


def test_a_cache_on_no_disk_is_refused() -> None:
    message = r"^--cache s3://bucket/cache: not on a disk, from which each node maps its copies; give a local folder$"
    with pytest.raises(UserError, match=message):
        check_cache("s3://bucket/cache")
    with pytest.raises(UserError, match=message):
        cache_folder("s3://bucket/cache")


def test_another_users_folder_names_the_folder_and_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(UserError, match=rf"^{tmp_path}: belongs to another user; set --cache to a folder of your own"):
        cache_folder(str(tmp_path))
    monkeypatch.setattr(node_cache.tempfile, "gettempdir", lambda: str(tmp_path))
    own = tmp_path / f"diffusion-dpo-{os.getuid()}"
    with pytest.raises(UserError, match=rf"^{own}: belongs to another user; set TMPDIR to a folder of your own"):
        staged_once(None, "name", 1, "a model", Mock(), "TMPDIR")
