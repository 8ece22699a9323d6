"""A store with lost files, on a full disk, from a spoilt source: one sentence, and with room the same contents."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from support.full_disk import fill
from support.material import rendered_pairs, write_pairs
from support.stores import SCRIPT, contents, flip, refusal, truncate

from infra.base.errors import UserError
from pipelines.engine import on_ray, progress
from pipelines.engine.jobs import Job
from pipelines.latents import label_files, store
from pipelines.latents.encode_config import EncodeConfig
from pipelines.latents.encode_latents import main
from training.data.staging import stage

pytestmark = pytest.mark.chaos


# 4. Lost and damaged files


def opened(path: Path, cache: Path) -> None:
    """Open all of a store that a trainer reads."""
    stage(str(path), str(cache))
    label_files.read_labels(str(path), "human")


PARTS = ("pairs/status=kept", "pairs/status=tie", "pairs/status=quarantined", "prompts", "labels/human")


@pytest.mark.parametrize("damage", [Path.unlink, truncate, flip])
@pytest.mark.parametrize("part", PARTS)
def test_a_lost_or_damaged_file_is_refused_at_open_and_named(
    part: str, damage: Callable[[Path], None], copied_store: Path, tmp_path: Path
) -> None:
    file = sorted((copied_store / part).glob("*.parquet"))[0]
    damage(file)
    with pytest.raises(UserError, match=rf"{part}/{file.name}: "):
        opened(copied_store, tmp_path / "cache")


@pytest.mark.parametrize("name", ["manifest.json", "labels/human/manifest.json"])
def test_a_lost_or_damaged_manifest_is_refused_at_open(name: str, copied_store: Path, tmp_path: Path) -> None:
    whole = (copied_store / name).read_text()
    for spoilt in (whole[:-4], "{}"):
        (copied_store / name).write_text(spoilt)
        with pytest.raises(UserError, match=rf"{name}: |labels/human/part-0\.parquet: "):
            opened(copied_store, tmp_path / "cache")
    (copied_store / name).unlink()
    with pytest.raises(UserError, match=r"no latent store here|has the label sets none"):
        opened(copied_store, tmp_path / "cache")
    (copied_store / name).write_text(whole)
    opened(copied_store, tmp_path / "cache")


def test_a_store_that_lost_its_manifest_is_not_written_a_second_time(copied_store: Path, raw_pairs: Path) -> None:
    (copied_store / "manifest.json").unlink()
    message = refusal("--source", str(raw_pairs), "--store", str(copied_store))
    assert "has pairs, but neither manifest.json nor a record of progress; restore manifest.json from a copy" in message


@pytest.mark.parametrize("engine", ["this process", pytest.param("ray", marks=pytest.mark.long)])
@pytest.mark.slow
def test_a_full_disk_and_bad_rows_are_one_sentence_each_and_with_room_the_same_command_finishes(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rendered_pairs(40)
    for row in rows[:10]:  # one of them a tie, whose images are not looked at
        row["jpg_0"] = b"no image"
    source = write_pairs(tmp_path / "raw", rows)
    flags = ["--source", str(source), "--rows-per-file", "4", "--store", str(tmp_path / "s")]
    flags += ["--max-bad-fraction", "0.25"]
    config = EncodeConfig(source=str(source), store=str(tmp_path / "s"), max_bad_fraction=0.25, rows_per_file=4)
    full = f"{tmp_path}/s/pairs: could not be written (No space left on device); make room, then the same command "
    with monkeypatch.context() as patched:
        fill(patched, f"{tmp_path}/s/pairs", 8000)
        with pytest.raises(UserError, match=f"^{re.escape(full)}goes on from what is written$"):
            main(config)
    assert not (tmp_path / "s" / store.MANIFEST).exists()
    # Something was finished, so there is something to keep, and something is left.
    assert 0 < progress.finished_rows(str(tmp_path / "s" / store.WORK / "pairs_done")) < 40

    told = "9 of 40 rows are quarantined already, over --max-bad-fraction 0.2; most often: image: "
    with pytest.raises(UserError, match=told):
        main(replace(config, max_bad_fraction=0.2))
    assert not (tmp_path / "s" / store.MANIFEST).exists()

    if engine == "ray":
        request.getfixturevalue("drive")(SCRIPT, *flags)  # what this process wrote before counts on Ray
    else:
        main(config)
    assert store.read_manifest(str(tmp_path / "s")).counts.quarantined == 9
    main(EncodeConfig(source=str(source), store=str(tmp_path / "undisturbed"), max_bad_fraction=0.25))
    assert contents(tmp_path / "s") == contents(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    ("error", "lost", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            False,
            r"out: could not be written \(.*\); make room",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            False,
            r"out: could not be written \(.*\); make room",
        ),
        (on_ray.ray.exceptions.OutOfDiskError("x"), False, "out: Ray's disk for what does not fit into memory is full"),
        (on_ray.ray.exceptions.ActorDiedError(), True, "out: a node was lost with work that Ray needed; the same"),
        (UserError("a step's own sentence"), True, "^a step's own sentence$"),
    ],
)
def test_what_ends_a_job_is_one_sentence(
    error: Exception, lost: bool, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=message):
        fail(error, lost, tmp_path, monkeypatch)


def test_a_failure_of_another_kind_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        fail(ZeroDivisionError(), False, tmp_path, monkeypatch)
    with pytest.raises(FileNotFoundError):
        fail(FileNotFoundError(errno.ENOENT, "No such file"), False, tmp_path, monkeypatch)


def fail(error: Exception, lost: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a job of the engine that fails by an error as Ray wraps it, and perhaps loses one of two nodes."""
    nodes: list[dict[str, Any]] = [{"NodeID": name, "Alive": True, "Resources": {}} for name in ("1", "2")]

    def build(_: Job) -> None:
        nodes[1]["Alive"] = not lost
        raise on_ray.ray.exceptions.RayTaskError("Write", "a traceback", error).as_instanceof_cause()

    monkeypatch.setattr(on_ray, "_check_resources", Mock())
    monkeypatch.setattr(on_ray.progress, "watch", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(on_ray, "_build", build)
    monkeypatch.setattr(on_ray.ray, "nodes", lambda: nodes)
    ids = lambda table: table["id"].to_numpy()  # noqa: E731
    on_ray.run(
        Job(
            source=["in"],
            columns=["id"],
            steps=[],
            output="out",
            checkpoint=str(folder),
            id_column="id",
            row_ids=ids,
            rows_per_block=1,
            name="rows",
            rows=1,
        )
    )
