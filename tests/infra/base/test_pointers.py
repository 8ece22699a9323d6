"""A clone without git-lfs: whatever reads its notes says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from infra.base import files, models, pointers, single_files, tables
from infra.base.errors import UserError

NOTE = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("unet/model.safetensors", models.shapes),
        ("model.safetensors", single_files.read_headers),
        ("tokenizer/tokenizer.json", lambda path: files.read_json(str(path))),
        ("pairs.parquet", lambda path: tables.read([str(path)])),
        ("pairs.parquet", lambda path: tables.column_names(str(path))),
    ],
)
def test_a_note_of_git_lfs_is_told_as_that(name: str, read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(NOTE)
    told = f"^{path}: is git-lfs' note of the file and not the file itself; run git lfs pull in {path.parent}$"
    with pytest.raises(UserError, match=told):
        read(path)


def test_other_files_and_absent_ones_pass(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("version 2")
    pointers.refuse(tmp_path / "text")
    pointers.refuse(tmp_path / "absent")
