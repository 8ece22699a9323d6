"""A store of groups: each image is encoded once, and its pairs are those of a store of pairs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.group_material import compact, grouped_rows, write_rows
from support.material import encode_plainly, write_pairs

from infra.base import engines, files, tables
from infra.base.errors import UserError
from infra.world import oracle
from labelers.labels import relabel
from labelers.labels.relabel_config import RelabelConfig
from pipelines.latents import (
    encode_latents,
    encode_plan,
    image_encoder,
    label_files,
    safety,
    schemas,
    store,
    store_check,
)
from pipelines.latents.encode_config import EncodeConfig
from pipelines.raw import group_source, raw_table, source
from training.data.opened import open_store

GROUPS = 3
SIZE = 4


def test_each_image_is_stored_once_and_each_pair_names_two(group_store: Path) -> None:
    manifest = store.read_manifest(str(group_store))
    # 3 groups of 4 images make 3 * 4 * 3 / 2 = 18 pairs of 12 images; a store of pairs would hold 36 latents.
    assert (manifest.counts.kept, manifest.counts.images, manifest.counts.prompts) == (18, 12, 3)
    images = tables.read_folder(str(group_store / store.KEPT_IMAGES))
    assert len(images["image_id"].unique()) == images.num_rows == 12
    pairs = tables.read_folder(str(group_store / store.KEPT))
    assert not [name for name in pairs.column_names if name.startswith("latents")]
    named = pairs["image_0_id"].to_pylist() + pairs["image_1_id"].to_pylist()
    assert set(named) == set(images["image_id"].to_pylist())
    assert list(store_check.problems(str(group_store))) == []


@pytest.mark.slow
def test_training_reads_the_latents_that_a_store_of_pairs_has(tmp_path: Path) -> None:
    """With the posterior's mean nothing is drawn, so both ways give the same numbers, by slot and by pair_id."""
    rows = grouped_rows(GROUPS, SIZE)
    with engines.asking("local"):
        for name, written in (
            ("groups", write_rows(tmp_path / "g", compact(rows))),
            ("pairs", write_pairs(tmp_path / "p", rows)),
        ):
            encode_latents.main(EncodeConfig(source=str(written), store=str(tmp_path / name), posterior="mean"))
    grouped = open_store(str(tmp_path / "groups"))
    paired = open_store(str(tmp_path / "pairs"))
    assert grouped.pair_ids.tolist() == paired.pair_ids.tolist()
    chosen = np.array([5, 0, 17, 5])
    ours = grouped.latents.begin(chosen)()
    theirs = paired.latents.begin(chosen)()
    assert list(ours) == list(theirs) == ["latents_0", "latents_1"]
    for name in ours:
        assert np.array_equal(ours[name], theirs[name])
    captions = [one.prompts.begin(one.prompt_rows[chosen].astype(np.int64))() for one in (grouped, paired)]
    assert all(np.array_equal(captions[0][name], captions[1][name]) for name in captions[0])
    labels = [label_files.read_labels(str(tmp_path / name), "human")[0] for name in ("groups", "pairs")]
    assert labels[0].equals(labels[1])


def test_a_reader_of_raw_pairs_gets_the_bytes_in_every_row(tmp_path: Path) -> None:
    rows = grouped_rows(2, 3)
    folder = write_rows(tmp_path / "raw", compact(rows))
    path = str(folder / "pairs-00000.parquet")
    # 2 groups of 3 images: 6 images in 2 * 3 pairs of two, so 12 places, of which 6 have no bytes of their own.
    assert sum(pq.read_table(path)[f"jpg_{slot}"].null_count for slot in (0, 1)) == 6
    read = [row for piece in raw_table.read_pieces(path, ["jpg_0", "jpg_1"]) for row in piece.to_pylist()]
    assert read == [{name: row[name] for name in ("jpg_0", "jpg_1")} for row in rows]
    assert group_source.count_images(raw_table.open_source([path])) == 6


def test_a_group_whose_rows_do_not_stand_together_is_refused(tmp_path: Path) -> None:
    rows = grouped_rows(2, 3)
    folder = write_rows(tmp_path / "raw", compact([*rows[1:], rows[0]]))
    with pytest.raises(UserError, match="the rows of group_id group 0 do not stand together; sort the pairs"):
        group_source.count_images(raw_table.open_source(source.parquet_files(str(folder), "train")))


def test_a_name_with_two_contents_in_a_group_is_refused(tmp_path: Path) -> None:
    rows = grouped_rows(1, 3)  # each image is in two of the three pairs, with its bytes in both
    rows[-1]["jpg_0"], rows[-1]["jpg_1"] = rows[-1]["jpg_1"], rows[-1]["jpg_0"]
    raw = write_rows(tmp_path / "raw", rows)
    told = "group_id group 0: two images of it have the name 0-[012] and other bytes; give each image of a group a name"
    with engines.asking("local"), pytest.raises(UserError, match=told):
        encode_latents.main(EncodeConfig(source=str(raw), store=str(tmp_path / "store")))
    assert not (tmp_path / "store" / store.MANIFEST).exists()


def test_bad_rows_cost_their_own_pairs(tmp_path: Path) -> None:
    """Of one group of 4: an image that does not decode is in 3 of 6 pairs; one pair has another caption, one a tie."""
    rows = compact(grouped_rows(1, 4))
    broken = rows[0]["image_0_uid"]
    for row in rows:
        for slot in (0, 1):
            if row[f"image_{slot}_uid"] == broken and row[f"jpg_{slot}"] is not None:
                row[f"jpg_{slot}"] = b"no image"
    whole = [row for row in rows if broken not in (row["image_0_uid"], row["image_1_uid"])]
    assert len(whole) == 3
    whole[0]["caption"] = "another caption"
    whole[1]["label_0"] = 0.5
    raw = write_rows(tmp_path / "raw", rows)
    with engines.asking("local"):
        encode_latents.main(EncodeConfig(source=str(raw), store=str(tmp_path / "store"), max_bad_fraction=1.0))
    manifest = store.read_manifest(str(tmp_path / "store"))
    assert (manifest.counts.kept, manifest.counts.ties, manifest.counts.quarantined, manifest.counts.images) == (
        1,
        1,
        4,
        3,
    )
    assert manifest.reasons == {
        "group: its caption is not that of its group's first row": 1,
        "image: image cannot be decoded: UnidentifiedImageError": 3,
    }


@pytest.mark.parametrize("lost", [store.KEPT_IMAGES, store.KEPT])
def test_what_a_store_of_groups_lost_is_computed_again(group_store: Path, tmp_path: Path, lost: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(group_store, copy)
    before = store.read_manifest(str(copy))
    files.remove(files.list_files(str(copy / lost), ".parquet")[0])
    with engines.asking("local"):
        encode_latents.main(EncodeConfig(source=before.source, store=str(copy), repair=True))
    after = store.read_manifest(str(copy))
    assert (after.content_hash, after.counts) == (before.content_hash, before.counts)
    assert list(store_check.problems(str(copy))) == []


def test_the_same_command_again_does_nothing(group_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encode_plainly(Path(store.read_manifest(str(group_store)).source), group_store)
    assert "already finished, nothing to do" in capsys.readouterr().out


def test_a_dry_run_counts_each_image_once(tmp_path: Path) -> None:
    raw = write_rows(tmp_path / "raw", compact(grouped_rows(2, 4)))
    dataset = raw_table.open_source(source.parquet_files(str(raw), "train"))
    rows = encode_plan.read_source(dataset, strict_labels=False)
    # 2 groups of 4 images are 12 pairs, whose 24 places show 8 images.
    assert (rows.kept, rows.images, rows.encoded) == (12, 8, 8)


@pytest.mark.slow
def test_an_encoding_that_was_stopped_goes_on_where_it_was(
    group_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source_of = store.read_manifest(str(group_store)).source
    config = EncodeConfig(source=source_of, store=str(tmp_path / "store"), rows_per_file=1)  # two images a file
    seen: list[int] = []
    encode = image_encoder.ImageEncoder.__call__

    def counted(self: image_encoder.ImageEncoder, decoded: pa.Table) -> pa.Table:
        seen.extend(decoded["image_id"].to_pylist())
        if len(seen) == 8:
            raise UserError("stopped")
        return encode(self, decoded)

    monkeypatch.setattr(image_encoder.ImageEncoder, "__call__", counted)
    with engines.asking("local"):
        with pytest.raises(UserError, match="stopped"):
            encode_latents.main(config)
        encode_latents.main(config)
    # Of 12 images 6 were written; the 7th and 8th were lost with their file, and are made again.
    assert len(seen) == 8 + 6
    assert (
        store.read_manifest(str(tmp_path / "store")).content_hash == store.read_manifest(str(group_store)).content_hash
    )


def test_a_scorer_sees_each_image_of_a_batch_once(
    group_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "store"
    shutil.copytree(group_store, copy, ignore=shutil.ignore_patterns(".lock"))
    source_of = store.read_manifest(str(copy)).source
    asked: list[int] = []
    score = oracle.Oracle.score

    def counted(self: oracle.Oracle, images: Sequence[Image.Image], captions: Sequence[str]) -> np.ndarray:
        asked.append(len(images))
        return score(self, images, captions)

    monkeypatch.setattr(oracle.Oracle, "score", counted)
    with engines.asking("local"):
        relabel.main(RelabelConfig(store=str(copy), source=source_of, scorer=("oracle",)))
    assert asked == [2 * 16, 12]  # the first pairs are a trial; then the 18 pairs of 12 images, one batch
    labels, _ = label_files.read_labels(str(copy), "oracle")
    assert labels.num_rows == 18
    shown = store.shown_images(str(copy))
    scores: dict[int, set[float]] = {}
    for slot in (0, 1):
        for image, score in zip(
            shown[f"image_{slot}_id"].to_pylist(), labels[f"score_{slot}"].to_pylist(), strict=True
        ):
            scores.setdefault(image, set()).add(score)
    assert len(scores) == 12
    assert all(len(own) == 1 for own in scores.values())  # an image has one score, in whichever pair it stands


def test_a_flagged_image_costs_its_own_pairs_alone() -> None:
    class RedIsBad:
        def scores(self, images: list[Image.Image]) -> np.ndarray:
            return np.array([[1.0 if image.getpixel((0, 0))[0] > 200 else -1.0] for image in images])  # type: ignore[index]

    pixels = [Image.new("RGB", (8, 8), colour).tobytes() for colour in ("red", "blue")]
    decoded = pa.table({"status": ["kept"] * 2, "stage": ["", ""], "reason": ["", ""], "pixels": pixels})
    for name in schemas.SIDES:
        decoded = decoded.append_column(name, pa.array([8, 8], pa.int32()))
    checked = safety.CheckPairs(RedIsBad(), ("pixels",))(decoded)  # type: ignore[arg-type]
    assert checked["status"].to_pylist() == ["quarantined", "kept"]
    assert checked["reason"][0].as_py() == "image: safety concept 0"


def test_a_row_without_ids_is_quarantined_and_told_by_its_images(tmp_path: Path) -> None:
    rows = grouped_rows(2, 3)
    rows[-1] |= dict.fromkeys(("ranking_id", "image_0_uid", "image_1_uid"))
    raw = write_rows(tmp_path / "raw", rows)
    with engines.asking("local"):
        encode_latents.main(EncodeConfig(source=str(raw), store=str(tmp_path / "store"), max_bad_fraction=1.0))
    manifest = store.read_manifest(str(tmp_path / "store"))
    # Two groups of three images are 2 * 3 pairs; the last pair's images stand in other pairs of its group, too.
    assert (manifest.counts.kept, manifest.counts.quarantined, manifest.counts.images) == (5, 1, 6)
    assert manifest.reasons == {"group: image_0_uid is null": 1}
