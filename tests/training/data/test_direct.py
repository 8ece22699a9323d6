"""Rows read where they lie: the same as a copy's, from disk and S3, and what is altered is named before it is used."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.faulty_s3 import Fault, faulty

from infra.base import files
from infra.base.errors import UserError
from infra.benchmarks.random_store import write_store
from pipelines.latents import addresses, schemas, store
from pipelines.latents.addresses import index_bytes
from training.data import applied_labels, direct
from training.data.applied_labels import apply_labels
from training.data.direct import is_addressable
from training.data.loader import Share, assemble, begin_step, read_ahead, step_batches, steps_ahead
from training.data.opened import open_store
from training.data.staging import stage

PAIRS = 600  # three files
SHAPE = (1, 2, 4)  # 16 bytes a latent
EMBEDDINGS = {"first": (3, 2), "second": (5,)}
LAST = "pairs/status=kept/part-512.parquet"  # of 88 pairs


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("indexed") / "store"
    write_store(folder, PAIRS, SHAPE, EMBEDDINGS)
    return folder


@pytest.fixture
def changed(indexed: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may change."""
    return Path(shutil.copytree(indexed, tmp_path / "store"))


def thousand(uniform: float) -> int:
    return int(uniform * 1000)


def test_batches_are_those_of_a_copy_and_nothing_is_copied(indexed: Path, tmp_path: Path) -> None:
    path = str(indexed)
    copied = apply_labels(stage(path, str(tmp_path / "staged")), path, "human")
    direct = apply_labels(open_store(path, str(tmp_path / "empty")), path, "human")
    assert not (tmp_path / "empty").exists()
    share = Share(64, 16)
    for step in (0, 11):  # of the first epoch and the second
        both = [step_batches(data, step, share, 5, thousand, 0.2) for data in (copied, direct)]
        for one, other in zip(*both, strict=True):
            assert one.fingerprint(0) == other.fingerprint(0)
            assert one.latents.equal(other.latents)
            assert one.conditioning.keys() == other.conditioning.keys() == EMBEDDINGS.keys()
            assert all(values.equal(other.conditioning[name]) for name, values in one.conditioning.items())


@pytest.fixture(scope="module")
def flipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with mirrored images."""
    folder = tmp_path_factory.mktemp("flipped") / "store"
    write_store(folder, 64, SHAPE, EMBEDDINGS, flip=True)
    return folder


@pytest.fixture
def spans_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note the bytes of each place that is read in a file of pairs."""
    read: list[int] = []
    own = direct._read_spans

    def note(file: str, spans: list[direct.Span]) -> None:
        if "/pairs/" in file:
            read.extend(target.nbytes for _, target in spans)
        own(file, spans)

    monkeypatch.setattr(direct, "_read_spans", note)
    return read


def test_of_mirrored_images_two_columns_are_read_and_not_four(
    flipped: Path, tmp_path: Path, spans_read: list[int]
) -> None:
    path = str(flipped)
    copied = applied_labels.as_stored(stage(path, str(tmp_path)))
    data = applied_labels.as_stored(open_store(path))
    rows = np.arange(64)
    one, other = (assemble(each, rows, 0, 0, thousand, 0.0) for each in (copied, data))
    assert one.latents.equal(other.latents)
    assert spans_read == [16] * (2 * 64)
    assert index_bytes(store.read_manifest(path)) == (24 + 4) * 64 + 20 * 17


def test_an_index_of_before_has_one_checksum_of_all_four_columns(flipped: Path, spans_read: list[int]) -> None:
    pairs = open_store(str(flipped))
    assert isinstance(pairs.latents, direct.AddressedRows)
    turns = np.arange(4) % 2 == 0
    wanted = pairs.latents.begin(np.arange(4), turns)()
    columns = pairs.latents.begin(np.arange(4))()
    sums = [addresses.checksum([values[row].tobytes() for values in columns.values()]) for row in range(4)]
    old = replace(pairs.latents, checksum=np.array(sums, np.uint32), mirrored_checksum=None)
    spans_read.clear()
    found = old.begin(np.arange(4), turns)()
    assert spans_read == [16] * (4 * 4)
    assert found.keys() == wanted.keys() == {"latents_0", "latents_1"}
    assert all(np.array_equal(values, wanted[name]) for name, values in found.items())
    assert np.array_equal(wanted["latents_1"][2], columns["latents_1_flipped"][2])


def test_altered_bytes_of_a_mirrored_image_are_named_where_it_is_used(flipped: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(flipped, tmp_path / "store"))
    file = "pairs/status=kept/part-0.parquet"
    flip(changed / file, first_byte_of(changed, file, "latents_0_flipped") + 16 * 3)
    latents = open_store(str(changed)).latents
    latents.begin(np.array([3]), np.array([False]))()
    for turns in (np.array([True]), None):
        with pytest.raises(UserError, match="row 3 holds other bytes than were stored"):
            latents.begin(np.array([3]), turns)()


def test_an_encoding_writes_an_index(encoded_store: Path) -> None:
    manifest = store.read_manifest(str(encoded_store))
    assert is_addressable(manifest)
    pairs = open_store(str(encoded_store))
    assert pairs.pair_ids.tolist() == store.kept_pairs(str(encoded_store))["pair_id"].to_pylist()
    last = len(pairs.pair_ids) - 1
    table = pa.concat_tables(
        pq.read_table(path, partitioning=None) for path in (encoded_store / store.KEPT).glob("*.parquet")
    ).sort_by("pair_id")
    read = pairs.latents.begin(np.array([last]))()["latents_1"]
    assert np.array_equal(read.ravel(), schemas.value_rows(table["latents_1"])[last])


def test_an_index_takes_24_bytes_a_pair_and_a_rank_five_more(indexed: Path) -> None:
    data = apply_labels(open_store(str(indexed)), str(indexed), "human")
    rows = pa.ipc.open_file(str(indexed / addresses.PAIRS)).read_all()
    assert rows.nbytes == 24 * PAIRS
    assert data.rows.nbytes + data.winners.nbytes == (4 + 1) * PAIRS
    assert data.preferred is None


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def first_byte_of(path: Path, file: str, column: str) -> int:
    parts = pa.ipc.open_file(str(path / addresses.PAIR_PARTS)).read_all().to_pylist()
    return next(int(part[column]) for part in parts if part["file"] == file)


def test_altered_bytes_are_named_by_file_and_row_before_they_are_used(changed: Path) -> None:
    flip(changed / LAST, first_byte_of(changed, LAST, "latents_1") + 16 * 3 + 15)  # the last byte of its row 3
    data = apply_labels(open_store(str(changed)), str(changed), "human")
    untouched = np.array([0, 511, 514, 516])
    assert assemble(data, untouched, 0, 0, thousand, 0.0).pair_ids.tolist() == untouched.tolist()
    with pytest.raises(UserError) as refused:
        assemble(data, np.array([0, 515]), 0, 0, thousand, 0.0)  # 512 + 3
    assert str(refused.value) == (
        f"{changed}/{LAST}: row 3 holds other bytes than were stored; run encode_latents.py with --repair"
    )


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (Path.unlink, r"part-512.parquet: missing, though its manifest names it; run encode_latents.py with --repair"),
        (lambda path: os.truncate(path, 1000), r"part-512.parquet: row 87 holds other bytes than were stored"),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), r"part-512.parquet: row 87 holds other bytes"),
    ],
)
def test_a_missing_or_torn_file_is_named(damage: Callable[[Path], None], told: str, changed: Path) -> None:
    data = apply_labels(open_store(str(changed)), str(changed), "human")
    damage(changed / LAST)
    with pytest.raises(UserError, match=told):
        assemble(data, np.array([599]), 0, 0, thousand, 0.0)


@pytest.mark.parametrize("name", [addresses.PAIRS, addresses.CAPTIONS, addresses.PAIR_PARTS, addresses.CAPTION_PARTS])
def test_an_index_that_is_missing_or_altered_is_named(name: str, changed: Path) -> None:
    flip(changed / name, -20)
    with pytest.raises(UserError, match=f"{name}: its contents differ from its manifest; run encode_latents.py"):
        open_store(str(changed))
    (changed / name).unlink()
    with pytest.raises(UserError, match=f"{name}: missing, though its manifest names it; run encode_latents.py"):
        open_store(str(changed))


def test_a_store_of_before_has_no_index_and_is_copied(
    tmp_path: Path, indexed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "old")
    write_store(tmp_path / "old", PAIRS, SHAPE, EMBEDDINGS, indexed=False)
    assert not is_addressable(store.read_manifest(path))
    old = apply_labels(open_store(path, str(tmp_path / "cache")), path, "human")
    assert "old: has no index, as stores of earlier versions, so its" in capsys.readouterr().err
    new = apply_labels(open_store(str(indexed)), str(indexed), "human")
    one, other = [assemble(data, np.array([7, 599]), 0, 1, thousand, 0.2) for data in (old, new)]
    assert one.latents.equal(other.latents)


def written(tmp_path: Path, **options: object) -> addresses.Located | None:
    """Write a file of kept pairs whose latents are 0, 1, 2, ..., and locate its rows."""
    ids = np.arange(50)
    values = np.arange(200, dtype=np.float16).reshape(50, 4)
    table = pa.table({"pair_id": ids, "prompt_id": ids, "latents_0": schemas.value_lists(values)})
    path = tmp_path / "file.parquet"
    pq.write_table(table, path, **{**schemas.WRITTEN_AS, **options})
    return addresses.locate(path.read_bytes(), pq.read_table(path))


@pytest.mark.parametrize(
    "options", [{"compression": "zstd"}, {"use_dictionary": True}, {"data_page_size": 64, "write_batch_size": 8}]
)
def test_rows_that_do_not_lie_one_after_the_other_have_no_place(tmp_path: Path, options: dict[str, object]) -> None:
    assert written(tmp_path) is not None
    assert written(tmp_path, **options) is None


def test_each_row_group_is_a_part(tmp_path: Path) -> None:
    located = written(tmp_path, row_group_size=20)
    assert located is not None
    assert [part.rows for part in located.parts] == [20, 20, 10]
    content = (tmp_path / "file.parquet").read_bytes()
    for number, part in enumerate(located.parts):
        begin = part.offsets["latents_0"]
        assert np.frombuffer(content[begin : begin + 8], np.float16).tolist() == [80 * number + k for k in range(4)]
    assert located.checksums[21] == addresses.checksum([np.arange(84, 88, dtype=np.float16).tobytes()])


def test_a_store_of_mixed_files_gets_no_index(tmp_path: Path) -> None:
    located = written(tmp_path)
    assert addresses.write(str(tmp_path), {f"{store.KEPT}/a.parquet": located, "prompts/b.parquet": None}) == {}
    assert not (tmp_path / addresses.FOLDER).exists()


def test_steps_are_begun_ahead_of_the_one_that_is_waited_for() -> None:
    events: list[str] = []

    def begin(step: int) -> Callable[[], int]:
        events.append(f"begin {step}")

        def finish() -> int:
            events.append(f"end {step}")
            return step

        return finish

    assert list(read_ahead(range(4), begin, ahead=2)) == [0, 1, 2, 3]
    assert events == ["begin 0", "begin 1", "begin 2", "end 0", "begin 3", "end 1", "end 2", "end 3"]


@pytest.fixture
def on_s3(indexed: Path, bucket: str, tmp_path: Path) -> str:
    path = f"{bucket}/{tmp_path.name}/store"
    for file in indexed.rglob("*.*"):
        files.write_bytes(files.join(path, str(file.relative_to(indexed))), file.read_bytes())
    return path


@pytest.mark.slow
def test_rows_come_from_s3_by_ranges_and_faults_that_pass_change_nothing(
    on_s3: str, indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = apply_labels(open_store(str(indexed)), str(indexed), "human")
    faults: list[Fault] = ["SlowDown", None, "cut", None, "reset"]
    asked: list[str] = []

    def fault(method: str, path: str) -> Fault:
        if method != "GET" or ".parquet" not in path or "labels" in path:
            return None
        asked.append(path)
        return faults.pop(0) if faults else None

    share = Share(16, 8)
    with faulty(os.environ["AWS_ENDPOINT_URL"], fault) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        data = apply_labels(open_store(on_s3, str(tmp_path / "cache")), on_s3, "human")
        assert steps_ahead(data, share) == 4  # 64 pairs are asked for ahead
        batches = begin_step(data, 3, share, 1, thousand, 0.2)()
    for one, other in zip(batches, step_batches(local, 3, share, 1, thousand, 0.2), strict=True):
        assert one.latents.equal(other.latents)
        assert all(values.equal(other.conditioning[name]) for name, values in one.conditioning.items())
    assert not faults
    pairs = [path for path in asked if "status" in path]
    assert 2 * 16 <= len(pairs) <= 2 * 16 + 3  # two latents a pair, and what was asked for again
    kept = sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*.arrow"))
    described = json.loads((indexed / "manifest.json").read_text())["files"]
    assert kept == sum(about["bytes"] for name, about in described.items() if name.startswith("index/"))
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_an_altered_object_on_s3_is_named(on_s3: str, indexed: Path, tmp_path: Path) -> None:
    content = bytearray((indexed / LAST).read_bytes())
    content[first_byte_of(indexed, LAST, "latents_0")] ^= 1
    files.write_bytes(files.join(on_s3, LAST), bytes(content))
    data = apply_labels(open_store(on_s3, str(tmp_path / "cache")), on_s3, "human")
    with pytest.raises(UserError, match=r"s3://.*part-512.parquet: row 0 holds other bytes than were stored"):
        assemble(data, np.array([512]), 0, 0, thousand, 0.0)
    files.remove(files.join(on_s3, LAST))
    again = apply_labels(open_store(on_s3, str(tmp_path / "cache")), on_s3, "human")
    with pytest.raises(UserError, match=r"s3://.*part-512.parquet: missing, though its manifest names it"):
        assemble(again, np.array([512]), 0, 0, thousand, 0.0)


def test_a_repaired_store_is_not_read_by_the_index_of_before(
    indexed: Path, changed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same pairs in a file of another name: pairs.arrow is the same, and only the parts' index names the file."""
    monkeypatch.setattr(direct.files, "is_remote", lambda path: path in (str(indexed), str(changed)))
    before = store.read_manifest(str(indexed))
    after = store.read_manifest(str(changed))
    told = {**after.files[addresses.PAIR_PARTS], "sha256": "0" * 64}
    renamed = replace(after, files={**after.files, addresses.PAIR_PARTS: told})
    assert before.files[addresses.PAIRS] == renamed.files[addresses.PAIRS]
    folders = [direct._local_index(str(indexed), one, str(tmp_path / "cache")) for one in (before, renamed)]
    assert folders[0] != folders[1]
