"""A command's last line: what there is, its size, and the next command as this one was run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from infra.base import files, next_step


def test_the_line_has_the_size_without_unfinished_work(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_bytes(b"x" * 1_000)
    (tmp_path / ".work").mkdir()
    (tmp_path / ".work" / "d").write_bytes(b"x" * 99)
    line = next_step.last_line(str(tmp_path), "3 pairs", "cmd")
    assert line == f"{tmp_path}: 3 pairs, 1,005 bytes; next: cmd"


def test_a_step_of_another_command_names_no_next_one(tmp_path: Path) -> None:
    @next_step.of_another_command()
    def step() -> str:
        return next_step.last_line(str(tmp_path), "3 pairs", "cmd")

    assert [step(), step()] == [f"{tmp_path}: 3 pairs, 0 bytes"] * 2
    assert next_step.last_line(str(tmp_path), "3 pairs", "cmd").endswith("; next: cmd")


@pytest.mark.parametrize(
    ("called", "stands_in", "told"),
    [
        ("/venv/bin/dpo-encode", "/home/me", "dpo-train --store 'my store'"),
        ("pipelines/encode_latents.py", str(files.ROOT), "python training/train_dpo.py --store 'my store'"),
        ("/x/encode_latents.py", "/home/me", f"python {files.ROOT}/training/train_dpo.py --store 'my store'"),
    ],
)
def test_the_next_command_is_named_as_this_one_was(
    called: str, stands_in: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    with files.counting_from(Path(stands_in)):
        assert next_step.command("training/train_dpo.py", "--store", "my store") == told
