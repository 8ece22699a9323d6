"""What a source's files hold: images changed under the same ids are refused, copies and untouched sources are not."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.material import rendered_pairs, write_pairs

from infra.base import files
from infra.base.errors import UserError
from pipelines.latents import encode_latents, store
from pipelines.latents.encode_config import EncodeConfig
from pipelines.raw import contents, pairs, source


def noted(folder: Path) -> contents.Noted:
    """Note what a folder's files hold."""
    return contents.contents_of(str(folder), source.parquet_files(str(folder), "train"))


def change_images(folder: Path) -> None:
    """Put other images under the same ids into the second file, and say that the ids are the same."""
    path = folder / "pairs-00003.parquet"
    before = pq.read_table(path)
    after = before.set_column(before.column_names.index("jpg_0"), "jpg_0", before["jpg_1"])
    assert pairs.pair_ids(after).tolist() == pairs.pair_ids(before).tolist()
    pq.write_table(after, path)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Return six raw pairs in two files."""
    return write_pairs(tmp_path / "raw", rendered_pairs(6), rows_per_file=3)


@pytest.mark.parametrize("is_small", [True, False])
def test_changed_images_are_refused_by_file(raw: Path, is_small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_small:
        monkeypatch.setattr(contents, "HASHED_WHOLE", 10)
    before = noted(raw)
    contents.refuse_changed(before, noted(raw), "--source raw", "give another")
    change_images(raw)
    with pytest.raises(UserError, match=r"--source raw: pairs-00003\.parquet has changed since .*; give another"):
        contents.refuse_changed(before, noted(raw), "--source raw", "give another")
    assert contents.digest(before) != contents.digest(noted(raw))


def test_a_large_file_of_the_same_size_and_footer_is_known_by_its_time(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte of an image differs, and no statistics hold images of this size."""
    monkeypatch.setattr(contents, "HASHED_WHOLE", 10)
    before = noted(raw)
    path = raw / "pairs-00000.parquet"
    changed = bytearray(path.read_bytes())
    changed[100] ^= 1
    stamp = path.stat().st_mtime_ns
    path.write_bytes(changed)
    os.utime(path, ns=(stamp + 10**9, stamp + 10**9))
    with pytest.raises(UserError, match="it was written again later, and is too large"):
        contents.refuse_changed(before, noted(raw), "--source raw", "")
    contents.refuse_changed_files(before, noted(raw), "--source raw", "", by_time=False)


def test_a_small_file_is_compared_whole_and_its_time_does_not_count(raw: Path) -> None:
    before = noted(raw)
    path = raw / "pairs-00000.parquet"
    os.utime(path, ns=(0, 0))
    contents.refuse_changed(before, noted(raw), "--source raw", "")
    changed = bytearray(path.read_bytes())
    changed[100] ^= 1
    path.write_bytes(changed)
    with pytest.raises(UserError, match="as many bytes, but others"):
        contents.refuse_changed(before, noted(raw), "--source raw", "")


def test_new_and_lost_files_are_named(raw: Path) -> None:
    before = noted(raw)
    write_pairs(raw / "more", rendered_pairs(2, seed=3))
    with pytest.raises(UserError, match=r"more/pairs-00000\.parquet is a new one among its files"):
        contents.refuse_changed(before, noted(raw), "--source raw", "")
    with pytest.raises(UserError, match=r"more/pairs-00000\.parquet is no longer among its files"):
        contents.refuse_changed(noted(raw), before, "--source raw", "")


def test_a_copy_elsewhere_holds_the_same(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    for path in raw.iterdir():
        (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
    assert contents.digest(noted(tmp_path / "copy")) == contents.digest(noted(raw))


def test_an_encoding_goes_on_from_the_same_images_only(raw: Path, tmp_path: Path) -> None:
    config = EncodeConfig(source=str(raw), store=str(tmp_path / "store"))
    plan = encode_latents.make_plan(config, config.store)
    assert encode_latents.make_plan(config, config.store).source_files == plan.source_files
    files.write_json(plan.work(store.SOURCE), plan.source_files)
    encode_latents.make_plan(config, config.store)
    change_images(raw)
    with pytest.raises(UserError, match=r"from which .*store was begun: pairs-00003\.parquet has changed since"):
        encode_latents.make_plan(config, config.store)
    files.remove(plan.work(store.SOURCE))  # begun by a version that noted nothing
    encode_latents.make_plan(config, config.store)
    files.write_json(plan.work(store.SOURCE), noted(raw))
    encode_latents.make_plan(replace(config, rows_per_file=1), config.store)
