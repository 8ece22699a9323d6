"""What was counted is taken where the same would be counted, and only there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.base import kept_counts


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a model's folder; nothing is kept yet, the table is empty and all code lies in tmp_path/room."""
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "config.json").write_text('{"layers": 2}')
    (folder / "unet" / "weights.safetensors").write_bytes(b"weights")
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "counting.py").write_text("one way")
    (tmp_path / "counts.json").write_text("{}")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(kept_counts.files, "ROOT", tmp_path)
    monkeypatch.setattr(kept_counts, "CODE", ("room",))
    monkeypatch.setattr(kept_counts, "TABLE", tmp_path / "counts.json")
    return folder


Ask = Callable[..., bool]


@pytest.fixture
def counts_now(model: Path) -> Ask:
    """Return a function that asks, and says whether it was counted for that."""

    def ask(question: str = "work", **asked: Any) -> bool:
        counted: list[str] = []

        def count() -> dict[str, Any]:
            counted.append(question)
            return {"flops": 7.5, "shape": (1, 2)}

        assert kept_counts.kept(model, question, asked, count) == {"flops": 7.5, "shape": [1, 2]}
        return bool(counted)

    return ask


def test_the_same_is_counted_once_and_anything_else_anew(counts_now: Ask) -> None:
    assert [counts_now(pairs=2), counts_now(pairs=2)] == [True, False]
    assert counts_now(pairs=3)
    assert counts_now("memory", pairs=2)


@pytest.mark.parametrize("changed", ["model/unet/config.json", "room/counting.py"])
def test_other_settings_or_other_code_count_anew(changed: str, counts_now: Ask, tmp_path: Path) -> None:
    assert counts_now()
    (tmp_path / changed).write_text('{"layers": 3}')
    assert [counts_now(), counts_now()] == [True, False]


def test_another_release_of_a_library_counts_anew_and_another_build_does_not(
    counts_now: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = "2.13.0+cpu"
    monkeypatch.setattr(kept_counts.metadata, "version", lambda _: release)
    assert counts_now()
    release = "2.13.0+cu130"
    assert not counts_now()
    release = "2.14.0"
    assert counts_now()


def test_weights_do_not_matter_and_what_is_torn_is_counted_again(counts_now: Ask, model: Path, tmp_path: Path) -> None:
    assert counts_now()
    (model / "unet" / "weights.safetensors").write_bytes(b"others")
    assert not counts_now()
    (kept,) = tmp_path.glob("diffusion-dpo-*/counts/*.json")
    kept.write_text('{"flops": 7')
    assert [counts_now(), counts_now()] == [True, False]


def test_a_folder_that_nothing_can_be_kept_in_costs_the_count_alone(counts_now: Ask, tmp_path: Path) -> None:
    assert counts_now()
    (cache,) = tmp_path.glob("diffusion-dpo-*")
    cache.chmod(0o777)  # anybody could change what is read there
    assert [counts_now(), counts_now()] == [True, True]


def test_the_table_answers_first(counts_now: Ask, model: Path) -> None:
    key = kept_counts.key_of(model, "work", {})
    kept_counts.TABLE.write_text(json.dumps({key: {"flops": 7.5, "shape": [1, 2]}}))
    assert not counts_now()
    with kept_counts.counting_anew() as answers:
        assert counts_now()
    assert answers == json.loads(kept_counts.TABLE.read_text())
