"""A store under kills, on a full disk, from a spoilt source, with lost files: the same contents, or one sentence."""

from __future__ import annotations

import contextlib
import errno
import json
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.full_disk import fill
from support.material import rendered_pairs, wait_for, write_pairs
from support.stores import SCRIPT, SMALL_BLOCKS, contents, refusal

from infra.base import files, one_writer
from infra.base.errors import UserError
from infra.faults import encoding
from infra.faults.chaos_config import Victim
from pipelines.engine import on_ray, progress
from pipelines.engine.failures import AGAIN
from pipelines.engine.jobs import Job
from pipelines.latents import label_files, repair, schemas, store
from pipelines.latents.encode_config import EncodeConfig
from pipelines.latents.encode_latents import main
from training.data.staging import stage

pytestmark = pytest.mark.chaos


# 1, 14. Kills, and a second job meanwhile


@pytest.mark.parametrize(
    "victims", [("encoder", "driver"), pytest.param(("node",), marks=pytest.mark.long)], ids=" and ".join
)
def test_sigkills_lose_and_double_nothing(
    victims: tuple[Victim, ...],
    encoded_store: Path,
    raw_pairs: Path,
    ray_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    drawn = encoding.strikes(random.Random(3), victims, 406 // encoding.BLOCK)
    flags = ["--source", str(raw_pairs), "--encoders", "2", *SMALL_BLOCKS]
    found = encoding.run_round(ray_environment, flags, str(tmp_path / "store"), drawn, tmp_path / "store.log")
    assert (found.counts, found.content_hash) == contents(encoded_store)


@pytest.mark.slow
def test_sigkill_and_sigterm_of_an_encoder_of_one_process_lose_and_double_nothing(
    encoded_store: Path, raw_pairs: Path, tmp_path: Path
) -> None:
    path = tmp_path / "store"
    command = [sys.executable, SCRIPT, "--source", str(raw_pairs), "--store", str(path), "--rows-per-file", "4"]

    def marks() -> list[str]:
        return progress.committed(str(path / store.WORK / "pairs_done"))

    def struck(number: signal.Signals, after: int) -> tuple[int, str]:
        with subprocess.Popen(
            [*command, "--batch-size", "32"], cwd=files.ROOT, stderr=subprocess.PIPE, text=True
        ) as job:
            wait_for(lambda: len(marks()) >= after, job)
            job.send_signal(number)
            assert job.stderr is not None
            return job.wait(), job.stderr.read()

    assert struck(signal.SIGKILL, 3)[0] == -signal.SIGKILL
    kept = marks()
    code, told = struck(signal.SIGTERM, len(kept) + 3)
    assert code == 143
    assert told.endswith(f"{path}/pairs: stopped on request; {AGAIN}\n")
    assert set(kept) < set(marks())
    assert not files.list_files(str(path / store.WORK), progress.PENDING)  # the block under way was written
    main(EncodeConfig(source=str(raw_pairs), store=str(path), rows_per_file=64))
    assert contents(path) == contents(encoded_store)


def test_a_second_job_on_the_same_store_is_refused(raw_pairs: Path, tmp_path: Path) -> None:
    config = EncodeConfig(source=str(raw_pairs), store=str(tmp_path / "s"))
    with one_writer.writer_lock(config.store), pytest.raises(UserError, match="another job is writing here"):
        main(config)
    assert [path.name for path in Path(config.store).iterdir()] == [".lock"]  # nothing was touched


def test_strikes_are_the_seeds_and_leave_something_to_do() -> None:
    drawn = encoding.strikes(random.Random(5), ("encoder", "driver", "node"), 25)
    assert drawn == encoding.strikes(random.Random(5), ("encoder", "driver", "node"), 25)
    assert {strike.victim for strike in drawn} == {"encoder", "driver", "node"}
    moments = [strike.blocks for strike in drawn]
    assert moments == sorted(set(moments))
    assert 0 < moments[0] <= moments[-1] < 17


# 4. Lost and damaged files


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:8] + bytes([content[8] ^ 1]) + content[9:])


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


@pytest.mark.slow
def test_repair_computes_the_lost_rows_and_no_others(
    encoded_store: Path, copied_store: Path, raw_pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = [sorted((copied_store / part).glob("*.parquet"))[0] for part in ("pairs/status=kept", "pairs/status=tie")]
    rows = sum(pq.read_metadata(path).num_rows for path in lost)
    lost[0].unlink()
    flip(lost[1])
    spared = {path: path.stat().st_mtime_ns for path in copied_store.rglob("*.parquet") if path not in lost}
    main(EncodeConfig(source=str(raw_pairs), store=str(copied_store), repair=True))
    told = capsys.readouterr().out
    gone, altered = [path.relative_to(copied_store) for path in lost]
    assert f"{gone} lost; {altered} damaged; {rows} rows are computed again" in told
    assert "repaired: the same contents as before" in told
    now = {path: path.stat().st_mtime_ns for path in copied_store.rglob("*.parquet")}
    labels = copied_store / "labels"
    assert {path: at for path, at in spared.items() if labels not in path.parents}.items() <= now.items()
    assert sum(pq.read_metadata(path).num_rows for path in now.keys() - spared.keys()) == rows
    assert contents(copied_store) == contents(encoded_store)
    main(EncodeConfig(source=str(raw_pairs), store=str(copied_store), repair=True))  # nothing is lost any more
    assert now == {path: path.stat().st_mtime_ns for path in copied_store.rglob("*.parquet")}


@pytest.mark.parametrize("part", ["prompts", "labels/human"])
def test_a_file_that_may_not_be_read_is_not_repaired(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = files.write_table(str(tmp_path / "prompts" / "a.parquet"), pa.table({"prompt_id": [1]}))
    labels = pa.table({name: [0] for name in label_files.LABELS_SCHEMA.names})
    label_files.write_labels(str(tmp_path), "human", labels, {"scorer": "human"})
    manifest = Mock(files={"prompts/a.parquet": {"sha256": sha}})
    assert repair.damaged(str(tmp_path), manifest) == {}
    open_as_usual = files.open_filesystem

    def denied(path: str) -> tuple[Any, str]:
        if f"/{part}/" in path and path.endswith(".parquet"):
            raise PermissionError(13, "Permission denied", path)
        return open_as_usual(path)

    monkeypatch.setattr(files, "is_file", lambda path: Path(path).is_file())
    monkeypatch.setattr(files, "open_filesystem", denied)
    with pytest.raises(UserError, match=rf"{part}.*: cannot be read \(.*Permission denied"):
        repair.damaged(str(tmp_path), manifest)


def test_a_reopened_store_holds_what_is_whole_as_done_and_goes_on_after_a_kill(copied_store: Path) -> None:
    manifest = store.read_manifest(str(copied_store))
    assert repair.damaged(str(copied_store), manifest) == {}
    prompts = next((copied_store / "prompts").glob("*.parquet"))
    truncate(prompts)
    flip(copied_store / "labels" / "human" / "part-0.parquet")
    lost = repair.damaged(str(copied_store), manifest)
    assert lost == {f"prompts/{prompts.name}": "damaged", "labels/human": "damaged"}
    assert repair.reopen(str(copied_store), manifest, lost) == manifest.counts.prompts + 1
    assert not prompts.exists()
    with pytest.raises(UserError, match="unfinished"):
        store.read_manifest(str(copied_store))
    work = copied_store / store.WORK
    assert progress.finished_rows(str(work / "pairs_done")) == 406
    assert not (work / "prompts_done").exists()
    begun = json.loads((work / "config.json").read_text())
    assert begun["fingerprints"] == manifest.fingerprints


@pytest.mark.parametrize(
    ("moved", "message"),
    [("source", "nowhere"), ("model", "vae was 'another', now .*; text_encoder was 'another', now ")],
)
def test_a_repair_that_cannot_be_done_leaves_the_store_as_it_is(
    moved: str, message: str, copied_store: Path, raw_pairs: Path
) -> None:
    sorted((copied_store / "pairs/status=tie").glob("*.parquet"))[0].unlink()
    manifest = json.loads((copied_store / store.MANIFEST).read_text())
    source = str(copied_store / "nowhere") if moved == "source" else str(raw_pairs)
    manifest["config"]["source"] = source
    if moved == "model":
        manifest["fingerprints"] = dict.fromkeys(manifest["fingerprints"], "another")
    (copied_store / store.MANIFEST).write_text(json.dumps(manifest))
    before = {path: path.read_bytes() for path in copied_store.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=message):
        main(EncodeConfig(source=source, store=str(copied_store), repair=True))
    assert {path: path.read_bytes() for path in copied_store.rglob("*") if path.is_file()} == before


def test_a_block_of_another_encoding_in_an_unfinished_store_is_encoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its rows and ids are the same, and its latents are others: here those of the other image."""
    source = write_pairs(tmp_path / "raw", rendered_pairs(4))
    path = tmp_path / "store"
    config = EncodeConfig(source=str(source), store=str(path))
    killed = Mock(side_effect=KeyboardInterrupt)
    with monkeypatch.context() as patched:
        patched.setattr(store, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            main(config)
    (kept,) = (path / store.KEPT).iterdir()
    rows = pq.ParquetFile(kept).read()
    column = rows.schema.get_field_index("latents_0")
    pq.write_table(rows.set_column(column, "latents_0", rows["latents_1"]), kept, **schemas.WRITTEN_AS)
    main(config)
    assert f"{kept}: not as this job wrote it" in capsys.readouterr().err
    assert store.read_manifest(str(path)).content_hash == killed.call_args.args[1].content_hash


def test_a_file_that_changes_or_goes_while_a_store_is_repaired_is_not_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_pairs(tmp_path / "raw", rendered_pairs(4))
    path = tmp_path / "store"
    config = EncodeConfig(source=str(source), store=str(path), repair=True)
    main(replace(config, repair=False))
    clean = contents(path)
    manifest = store.read_manifest(str(path))
    kept, captions = (name for name in sorted(manifest.files) if name.startswith((store.KEPT, "prompts/")))
    (path / captions).unlink()
    repair.reopen(str(path), manifest, repair.damaged(str(path), manifest))
    rows = pq.ParquetFile(path / kept).read()
    pq.write_table(rows.set_column(2, "latents_0", rows["latents_1"]), path / kept)
    with pytest.raises(UserError, match=rf"{kept}: changed since the repair began; delete it, then the same command"):
        main(config)
    (path / kept).unlink()
    main(config)
    assert "4 more rows were lost since and are computed again" in capsys.readouterr().err
    assert contents(path) == clean


# 8, 10. A full disk, and a spoilt source


@pytest.mark.parametrize("engine", ["this process", pytest.param("ray", marks=pytest.mark.long)])
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
