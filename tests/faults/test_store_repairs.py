"""Repair of a store: the lost rows are computed again and no others, and nothing else is published."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.material import rendered_pairs, write_pairs
from support.stores import contents, flip, truncate

from infra.base import files
from infra.base.errors import UserError
from pipelines.engine import progress
from pipelines.latents import label_files, repair, schemas, store
from pipelines.latents.encode_config import EncodeConfig
from pipelines.latents.encode_latents import main

pytestmark = pytest.mark.chaos


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
