"""The public preference sets in the files and columns that their cards and loaders name, small; docs/public-sets.md."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra.base.errors import UserError
from pipelines.latents import summary
from pipelines.raw import raw_table, source, table_places, webdataset
from pipelines.raw.import_config import ImportConfig
from pipelines.raw.import_pairs import main
from pipelines.raw.pairs import pair_ids

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # as datasets stores its Image feature
COLOURS = ("red", "green", "blue", "white")


def picture(colour: str) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(written, "PNG")
    return written.getvalue()


def named(content: bytes) -> str:
    return {picture(colour): colour for colour in COLOURS}[content]


def inside(colour: str) -> dict[str, Any]:
    return {"bytes": picture(colour), "path": f"{colour}.png"}


def imported(folder: Path, **flags: str) -> list[dict[str, Any]]:
    flags = {"table": str(folder / "set"), "output": str(folder / "raw")} | flags
    main(ImportConfig(**flags))  # type: ignore[arg-type]
    raw = raw_table.open_source(source.parquet_files(str(folder / "raw"), "train"))
    return [row for piece in raw.pieces(raw.names) for row in piece.to_pylist()]


def better(rows: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Return caption, better colour, worse colour; of a tie in alphabetical order, with "="."""
    ordered = []
    for row in rows:
        shown = [named(row[f"jpg_{slot}"]) for slot in (0, 1)]
        if row["label_0"] == 0.5:
            ordered.append((row["caption"], "=", " ".join(sorted(shown))))
        else:
            ordered.append((row["caption"], *(shown if row["label_0"] == 1 else shown[::-1])))
    return ordered


def put(folder: Path, *names: str) -> None:
    """Write images beside a table, named by their colours."""
    for name in names:
        path = folder / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(Path(name).stem))


def test_hpdv2_is_chosen_by_split(tmp_path: Path) -> None:
    put(tmp_path, "red.jpg", "blue.jpg")
    train = [{"human_preference": [0, 1], "prompt": "a", "file_path": ["red.jpg", "blue.jpg"]}]
    test = [{"prompt": "b", "image_path": ["red.jpg", "blue.jpg"], "rank": [1, 2], "raw_annotations": []}]
    for split, rows in (("train", train), ("test", test)):
        (tmp_path / "set" / f"{split}.json").write_text(json.dumps(rows))
    assert better(imported(tmp_path)) == [("a", "blue", "red")]
    assert better(imported(tmp_path, split="test")) == [("b", "red", "blue")]
    with pytest.raises(UserError, match=r"holds test\.json, train\.json; name one of these files"):
        imported(tmp_path, split="validation")


def test_hpdv3_s_votes_become_soft_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, *(f"images/{colour}.jpg" for colour in COLOURS))
    paths = [("red", "blue", [12, 4]), ("green", "blue", None), ("white", "blue", [1, 3])]
    rows = [
        {"prompt": "a", "path1": f"images/{win}.jpg", "path2": f"images/{lose}.jpg", "choice_dist": votes}
        | {"confidence": 0.99, "model1": "flux", "model2": "kolors"}
        for win, lose, votes in paths
    ]
    (tmp_path / "set" / "train.json").write_text(json.dumps(rows))
    pairs = imported(tmp_path)
    assert better(pairs) == [("a", win, "blue") for win in ("red", "green", "white")]
    winner = [row["probability_0"] if row["label_0"] == 1 else 1 - row["probability_0"] for row in pairs]
    # 12 of 16 votes; no votes: the label; 1 of 4 votes is against the label, which stands alone.
    assert winner == [0.75, 1.0, 1.0]
    slot = 0 if pairs[0]["label_0"] == 1 else 1
    assert (pairs[0][f"model_{slot}"], pairs[0][f"model_{1 - slot}"]) == ("flux", "kolors")
    sentence = capsys.readouterr().out.splitlines()[0]
    assert sentence.startswith("2 pairs have votes of several people; on average 75.0% of a pair's votes are for the ")
    assert "in 1 of them most votes are against the set's own label" in sentence


def test_image_reward_db_by_its_metadata_and_by_an_archive(tmp_path: Path) -> None:
    put(tmp_path, *(f"images/train/train_1/{colour}.webp" for colour in COLOURS[:3]))
    rated = {"prompt_id": "1-2", "prompt": "a", "classification": "Food", "image_amount_in_total": 3}
    rated |= dict.fromkeys(("overall_rating", "image_text_alignment_rating", "fidelity_rating"), 6)
    ranks = [("red", 2), ("green", 1), ("blue", 2)]
    rows = [rated | {"image_path": f"images/train/train_1/{name}.webp", "rank": rank} for name, rank in ranks]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set" / "metadata-train.parquet")
    wanted = [("a", "green", "red"), ("a", "=", "blue red"), ("a", "green", "blue")]
    assert better(imported(tmp_path)) == wanted
    archive = tmp_path / "set" / "images/train/train_1"
    (archive / "train_1.json").write_text(json.dumps(rows))
    assert better(imported(tmp_path, table=str(archive / "train_1.json"))) == wanted


def test_open_image_preferences_hide_the_chosen_slot(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": f"{n}", "chosen": inside("red"), "rejected": inside(other)}
        for n, other in enumerate(COLOURS[1:] * 8)
    ]
    schema = pa.schema([("prompt", pa.string()), ("chosen", IMAGE), ("rejected", IMAGE)])
    (tmp_path / "set" / "data").mkdir(parents=True)
    for number in range(2):
        name = tmp_path / "set" / "data" / f"train-0000{number}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist(rows[number::2], schema), name)
    pairs = imported(tmp_path)
    assert sorted(better(pairs)) == sorted((row["prompt"], "red", row["rejected"]["path"][:-4]) for row in rows)
    assert len({row["ranking_id"] for row in pairs}) == 24
    assert len({row["label_0"] for row in pairs}) == 2
    assert "probability_0" not in pairs[0]


def rapidata(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    count = len(next(iter(columns.values())))
    shown = {"image1": [inside("red")] * count, "image2": [inside("blue")] * count}
    table = {name: pa.array(values, IMAGE) for name, values in shown.items()}
    about = {"prompt": [f"{n}" for n in range(count)], "model1": ["flux"] * count, "model2": ["sd3"] * count}
    pq.write_table(pa.table(about | table | columns | {"detailed_results": ["[]"] * count}), path)


def test_rapidata_s_votes_and_shares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "set" / "data" / "train_0001-00000-of-00001.parquet"
    rapidata(path, votes_image1=[20, 13, 6], votes_image2=[6, 13, 18])
    rows = imported(tmp_path, split="train_0001")
    wanted = [("0", "red", "blue"), ("1", "=", "blue red"), ("2", "blue", "red")]
    assert better(rows) == wanted
    first = [row["probability_0"] if named(row["jpg_0"]) == "red" else 1 - row["probability_0"] for row in rows]
    assert first == pytest.approx([20 / 26, 0.5, 6 / 24])
    assert [named(row["jpg_0"]) for row in rows] == ["red"] * 3  # image1, as people saw it
    assert "1 of them have as many for either image and are ties" in capsys.readouterr().out
    shares = {f"weighted_results_image{slot}_alignment": [0.5] * 3 for slot in (1, 2)}
    first = [0.8, 0.5, 0.1]
    preferred = dict(zip(("image1", "image2"), (first, [1 - one for one in first]), strict=True))
    rapidata(path, **shares, **{f"weighted_results_{slot}_preference": share for slot, share in preferred.items()})
    assert better(imported(tmp_path)) == wanted
    rapidata(path, **shares, **{name.replace("alignment", "style"): share for name, share in shares.items()})
    with pytest.raises(UserError, match=r"row 1: people rated by alignment, style, and preference is not among them"):
        imported(tmp_path)


def test_shares_of_votes_are_looked_up_for_the_kept_pairs(tmp_path: Path) -> None:
    rapidata(tmp_path / "set" / "train.parquet", votes_image1=[20, 13, 6], votes_image2=[6, 13, 18])
    imported(tmp_path)
    raw = raw_table.open_source(source.parquet_files(str(tmp_path / "raw"), "train"))
    (whole,) = raw.pieces(raw.names)
    kept = pa.table({"pair_id": pair_ids(whole)[::-2]})  # the third and the first
    shares = summary._probabilities(SimpleNamespace(dataset=raw), kept)  # type: ignore[arg-type]
    assert shares.to_pylist() == pytest.approx(whole["probability_0"].to_pylist()[::-2])


def test_shares_of_votes_are_found_for_a_row_without_ids(tmp_path: Path) -> None:
    ids: dict[str, Any] = {"ranking_id": [1, None], "image_0_uid": ["a", None], "image_1_uid": ["b", None]}
    shown = {"jpg_0": [picture("red")] * 2, "jpg_1": [picture("blue")] * 2}
    whole = pa.table({"caption": ["x", "y"], "label_0": [1.0, 0.0], "probability_0": [0.75, 0.25], **ids, **shown})
    pq.write_table(whole, tmp_path / "pairs.parquet")
    raw = raw_table.open_source([str(tmp_path / "pairs.parquet")])
    kept = pa.table({"pair_id": pair_ids(whole)})
    shares = summary._probabilities(SimpleNamespace(dataset=raw), kept)  # type: ignore[arg-type]
    assert shares.to_pylist() == [0.75, 0.25]


def test_a_public_set_given_as_a_source_is_named_with_the_command(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    rapidata(path, votes_image1=[2], votes_image2=[1])
    with pytest.raises(
        UserError, match=rf", as Rapidata with votes: make raw pairs with .*import_pairs\.py --table {path}"
    ):
        raw_table.open_source([str(path)])


def tar(path: Path, samples: dict[str, bytes | str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in samples.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content if isinstance(content, bytes) else content.encode()))


def test_webdataset_as_diffusers_writes_pick_a_pic_and_with_json(tmp_path: Path) -> None:
    texts: dict[str, bytes | str] = {"original_prompt.txt": "a", "label_0.txt": "0.0", "label_1.txt": "1.0"}
    images: dict[str, bytes | str] = {f"jpg_{slot}.jpg": picture(colour) for slot, colour in enumerate(("red", "blue"))}
    tar(tmp_path / "set" / "00000.tar", {f"0.{end}": content for end, content in (texts | images).items()})
    about = json.dumps({"caption": "b", "label_0": 0.5})
    pair: dict[str, bytes | str] = {"0.png": picture("green"), "1.png": picture("white"), "json": about}
    tar(tmp_path / "set" / "00001.tar", {f"./x/7.{end}": content for end, content in pair.items()})
    rows = imported(tmp_path)
    assert better(rows) == [("a", "blue", "red"), ("b", "=", "green white")]
    shown = [[named(row[f"jpg_{slot}"]) for slot in (0, 1)] for row in rows]
    assert shown == [["red", "blue"], ["green", "white"]]  # in the slots that their names give them


@pytest.mark.parametrize(
    ("sample", "refusal"),
    [
        ({"0.jpg": b"", "0.txt": "a", "0.json": "{}"}, "sample 0: has jpg, json, txt, and not two images; a pair is"),
        ({"0.0.jpg": b"", "0.1.jpg": b"", "0.json": "[]"}, "sample 0: json holds no object"),
        ({"0.0.jpg": b"", "0.1.jpg": b"", "0.txt": "a"}, "sample 0: label_0 is null"),
        ({"0.0.jpg": b"", "0.1.jpg": b"", "0.label_0.txt": "1"}, "sample 0: caption is null"),
    ],
)
def test_a_tar_without_pairs_is_refused_and_the_rows_before_stand(
    tmp_path: Path, sample: dict[str, bytes | str], refusal: str
) -> None:
    (tmp_path / "raw").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "raw" / "pairs-0000.parquet")
    tar(tmp_path / "set" / "0.tar", sample)
    with pytest.raises(UserError, match=f"0.tar: {refusal}"):
        imported(tmp_path)
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["pairs-0000.parquet"]


def test_a_tar_that_was_cut_off_is_named(tmp_path: Path) -> None:
    tar(tmp_path / "set" / "0.tar", {"0.0.jpg": b"x" * 3000})
    path = tmp_path / "set" / "0.tar"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"0\.tar: not readable as a tar"):
        imported(tmp_path)


@pytest.mark.parametrize("left", [1024, 1500])  # bytes of a first sample's last file, and half of the next header
def test_a_tar_that_was_cut_off_between_two_files_is_named_too(tmp_path: Path, left: int) -> None:
    path = tmp_path / "set" / "0.tar"
    tar(path, {"0.txt": "a", "1.txt": "b"})
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(UserError, match=rf"0\.tar: not readable as a tar \(cut at byte {left:,}\)"):
        list(webdataset.samples(str(path)))


def test_two_images_of_a_slot_and_tars_without_a_pair_are_refused(tmp_path: Path) -> None:
    about = json.dumps({"caption": "b", "label_0": 1})
    twice = {f"0.{end}": picture("red") for end in ("0.png", "jpg_0.jpg", "1.png")}
    tar(tmp_path / "set" / "0.tar", {**twice, "0.json": about})
    with pytest.raises(UserError, match=r"sample 0: has 0\.png, 1\.png, jpg_0\.jpg, several images of one slot"):
        imported(tmp_path)
    tar(tmp_path / "set" / "0.tar", {})
    with pytest.raises(UserError, match=r"0\.tar: holds no pair"):
        imported(tmp_path)


@pytest.mark.parametrize("end", ["csv", "json"])
def test_a_set_s_columns_may_name_images_in_text(tmp_path: Path, end: str) -> None:
    put(tmp_path, "red.png", "blue.png", "green.png")
    rows = [{"prompt": "a", "chosen": "red.png", "rejected": other} for other in ("blue.png", "green.png")]
    lines = ["prompt,chosen,rejected", *(",".join(row.values()) for row in rows)]
    (tmp_path / "set" / f"pairs.{end}").write_text(json.dumps(rows) if end == "json" else "\n".join(lines))
    assert better(imported(tmp_path)) == [("a", "red", "blue"), ("a", "red", "green")]


def test_urls_and_paths_in_parquet(tmp_path: Path) -> None:
    put(tmp_path, "red.png", "blue.png")
    rows = [{"prompt": "a", "chosen": "red.png", "rejected": "blue.png"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set" / "pairs.parquet")
    assert better(imported(tmp_path)) == [("a", "red", "blue")]
    rows[0]["rejected"] = "HTTPS://example.org/blue.png"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set" / "pairs.parquet")
    with pytest.raises(UserError, match="row 1: rejected is a URL, and no image is fetched from one"):
        imported(tmp_path)
    rows[0]["rejected"] = "../blue.png"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set" / "pairs.parquet")
    with pytest.raises(UserError, match=r"row 1: rejected has no image, and no file \.\./blue\.png is in"):
        imported(tmp_path)


def test_raw_pairs_and_unknown_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    path = tmp_path / "set" / "x.parquet"
    pq.write_table(pa.table({name: ["a"] for name in ("caption", "jpg_0", "jpg_1", "label_0")}), path)
    with pytest.raises(UserError, match=r"holds raw pairs already; give it to encode_latents\.py as --source"):
        imported(tmp_path)
    pq.write_table(pa.table({"prompt": ["a"], "preference.responses": [["image_1"]]}), path)
    with pytest.raises(UserError, match=r"has the columns prompt, preference\.responses, which are those of no known"):
        imported(tmp_path)


@pytest.mark.parametrize("name", table_places.ARCHIVED)
def test_sets_whose_images_lie_in_archives_say_how_to_bring_them(name: str) -> None:
    with pytest.raises(UserError, match=f"--table {name}: its images lie in archives; run `hf download {name} "):
        table_places.find(name, "train")
