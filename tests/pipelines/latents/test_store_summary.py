"""Captions that were lost or stored twice are never published, and a store that lacks one is not staged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.stores import contents

from infra.base import files
from infra.base.errors import UserError
from pipelines.latents import addresses, encode_latents, encode_passes, store
from pipelines.latents.encode_config import EncodeConfig
from pipelines.raw import pairs
from training.data.staging import stage

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.usefixtures("noted_jobs")]


def lose_all(prompts: Path) -> None:
    shutil.rmtree(prompts)


def lose_a_row(prompts: Path) -> None:
    path = next(prompts.glob("*.parquet"))
    pq.write_table(pq.read_table(path)[1:], path)


def write_a_file_twice(prompts: Path) -> None:
    shutil.copy(next(prompts.glob("*.parquet")), prompts / "again-0.parquet")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "told"),
    [  # 261 captions and the empty one
        (lose_all, r"\.parquet: not as this job wrote it; the same command computes its rows again"),
        (lose_a_row, r"\.parquet: not as this job wrote it; the same command computes its rows again"),
        (write_a_file_twice, ": 524 captions stored, of which 262 are among the 262 wanted; delete this folder and"),
    ],
)
def test_captions_that_are_not_the_pairs_are_not_published(
    spoil: Callable[[Path], None],
    told: str,
    encoded_store: Path,
    raw_pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, encode = EncodeConfig(source=str(raw_pairs), store=str(tmp_path / "s")), encode_passes.encode_captions

    def encode_and_spoil(plan: encode_passes.Plan) -> None:
        encode(plan)
        spoil(tmp_path / "s" / "prompts")

    with monkeypatch.context() as patched:
        patched.setattr(encode_passes, "encode_captions", encode_and_spoil)
        with pytest.raises(UserError, match=rf"s/prompts.*{told}"):
            encode_latents.main(config)
    assert not (tmp_path / "s" / store.MANIFEST).exists()
    if "delete" in told:
        files.remove(str(tmp_path / "s" / "prompts"))  # as the sentence says; this engine keeps no prompts_done
    encode_latents.main(config)
    assert contents(tmp_path / "s") == contents(encoded_store)


def test_a_source_that_lost_a_caption_meanwhile_is_refused(tmp_path: Path, raw_pairs: Path) -> None:
    shutil.copytree(raw_pairs, tmp_path / "raw")
    config = EncodeConfig(source=str(tmp_path / "raw"), store=str(tmp_path / "s"))
    plan = encode_latents.make_plan(config, config.store)
    encode_passes.encode_pairs(plan)
    for path in (tmp_path / "raw").glob("*.parquet"):
        table = pq.read_table(path)
        captions = pa.array(["a cat"] * table.num_rows)
        pq.write_table(table.set_column(table.schema.get_field_index("caption"), "caption", captions), path)
    changed = encode_latents.make_plan(config, config.store)
    with pytest.raises(UserError, match=r"the source lacks \d+ captions of kept pairs; the source changed"):
        encode_passes.encode_captions(changed)


@pytest.mark.parametrize("lost", ["a pair's", "the empty"])
def test_a_published_store_without_a_caption_is_not_staged_and_repair_mends_it(
    lost: str, copied_store: Path, encoded_store: Path, raw_pairs: Path, tmp_path: Path
) -> None:
    (path,) = (copied_store / "prompts").glob("*.parquet")
    table, empty = pq.read_table(path), pairs.prompt_id("")
    ids = table["prompt_id"].to_pylist()
    key = empty if lost == "the empty" else next(each for each in ids if each != empty)
    pq.write_table(table.filter(pa.array([each != key for each in ids])), path)
    manifest = json.loads((copied_store / store.MANIFEST).read_text())
    about = {k: v for k, v in addresses.describe_file(str(path))[0].items() if k != "digest"}
    manifest["files"][f"prompts/{path.name}"] = about
    (copied_store / store.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=rf"store: prompts/ has no prompt_id {key}, which its pairs need"):
        stage(str(copied_store), str(tmp_path / "cache"))
    shutil.rmtree(copied_store / "prompts")
    encode_latents.main(EncodeConfig(source=str(raw_pairs), store=str(copied_store), repair=True))
    assert contents(copied_store) == contents(encoded_store)
    stage(str(copied_store), str(tmp_path / "cache"))


@pytest.mark.parametrize("name", [addresses.PAIRS, addresses.CAPTION_PARTS])
def test_a_lost_index_is_written_again_and_no_row_is_computed(
    name: str, copied_store: Path, encoded_store: Path, raw_pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied_store / name).unlink()
    encode_latents.main(EncodeConfig(source=str(raw_pairs), store=str(copied_store), repair=True))
    assert f"{name} lost; 0 rows are computed again" in capsys.readouterr().out
    assert contents(copied_store) == contents(encoded_store)
    assert (copied_store / name).read_bytes() == (encoded_store / name).read_bytes()
