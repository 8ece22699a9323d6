"""Start images are matched by caption and index, from folders and tables; none is skipped, none is taken twice."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.judging_material import write_images

from infra.base.errors import UserError
from infra.world import render_images
from pipelines.drawing import image_sets, start_images
from pipelines.drawing.prompts import read_prompts

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
WANTED = image_sets.wanted_images(["a", "b", "a"], 1, seed=0)


def png(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, format="PNG")
    return buffer.getvalue()


def table(path: Path, **columns: list[Any]) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def colours(path: str, tmp_path: Path, wanted: pa.Table = WANTED) -> dict[tuple[str, int], Any]:
    parts = [pq.read_table(one) for one in start_images.write(path, wanted, str(tmp_path / "wanted"))]
    rows = pa.concat_tables(parts).sort_by("image_id").to_pylist()
    assert [row["image_id"] for row in rows] == sorted(wanted["image_id"].to_pylist())
    shown = (Image.open(io.BytesIO(row[start_images.COLUMN])).getpixel((0, 0)) for row in rows)
    return {(row["caption"], row["image_index"]): colour for row, colour in zip(rows, shown, strict=True)}


def test_a_folder_is_matched_by_caption_and_index(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "start", {"b": [BLUE], "c": [GREEN], "a": [RED, GREEN, BLUE]})
    assert colours(folder, tmp_path) == {("a", 0): RED, ("a", 1): GREEN, ("b", 0): BLUE}


def test_a_table_without_an_index_has_one_start_image_per_caption(tmp_path: Path) -> None:
    path = table(tmp_path / "starts.parquet", caption=["a", "b"], image=[png(RED), png(BLUE)])
    assert colours(path, tmp_path) == {("a", 0): RED, ("a", 1): RED, ("b", 0): BLUE}
    structs = [{"bytes": png(c), "path": None} for c in (RED, BLUE)]  # as datasets writes images
    assert colours(table(tmp_path / "hub.parquet", caption=["a", "b"], image=structs), tmp_path)["a", 1] == RED
    for name, comma in (("starts.csv", ","), ("starts.tsv", "\t")):
        (tmp_path / "red.png").write_bytes(png(RED))
        rows = [f"image{comma}caption", f"red.png{comma}a", f"red.png{comma}b"]
        (tmp_path / name).write_text("\n".join(rows) + "\n")
        assert set(colours(str(tmp_path / name), tmp_path).values()) == {RED}


@pytest.mark.parametrize("row", ['a "dog"\tred.png', '"a dog" runs\tred.png', '"a dog\tred.png'])
def test_a_table_of_captions_and_start_images_finds_its_own_captions(row: str, tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(png(RED))
    path = tmp_path / "own.tsv"
    path.write_text(f"caption\timage\n{row}\nb\tred.png\n")
    captions = read_prompts(str(path))
    assert captions == [row.split("\t")[0], "b"]
    assert set(colours(str(path), tmp_path, image_sets.wanted_images(captions, 1, seed=0)).values()) == {RED}


def test_a_table_with_an_index_is_matched_by_it(tmp_path: Path) -> None:
    contents = [png(colour) for colour in (RED, GREEN, BLUE)]
    path = table(tmp_path / "starts.parquet", caption=["a", "a", "b"], image_index=[1, 0, 0], image=contents)
    assert colours(path, tmp_path) == {("a", 0): GREEN, ("a", 1): RED, ("b", 0): BLUE}


def test_many_start_images_are_written_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_images, "PART", 2)
    folder = write_images(tmp_path / "start", {"a": [RED, GREEN], "b": [BLUE]})
    assert len(start_images.write(folder, WANTED, str(tmp_path / "wanted"))) == 2
    assert colours(folder, tmp_path) == {("a", 0): RED, ("a", 1): GREEN, ("b", 0): BLUE}


def test_the_hash_is_of_what_is_started_from(tmp_path: Path) -> None:
    captions, contents = ["a", "b"], [png(RED), png(BLUE)]
    found = start_images.digest(table(tmp_path / "1.parquet", caption=captions, image=contents), WANTED)
    turned = table(tmp_path / "2.parquet", caption=captions[::-1], image=contents[::-1])
    assert start_images.digest(turned, WANTED) == found
    more = table(tmp_path / "3.parquet", caption=[*captions, "c"], image=[*contents, None])
    assert start_images.digest(more, WANTED) == found  # what is not wanted is not looked at
    swapped = table(tmp_path / "4.parquet", caption=captions, image=contents[::-1])
    assert start_images.digest(swapped, WANTED) != found


def test_a_caption_without_its_start_image_is_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "start", {"a": [RED], "b": [BLUE]})
    with pytest.raises(UserError, match=r"--init-images .*/start: no start image for image 1 of 'a'; add it$"):
        start_images.digest(folder, WANTED)
    with pytest.raises(UserError, match=r"no start image for image 0 of 'a', nor for 1 others"):
        start_images.digest(table(tmp_path / "b.parquet", caption=["b"], image=[png(RED)]), WANTED)


def test_a_second_start_image_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "x.parquet", caption=["a", "a", "b"], image=[png(RED)] * 3)
    with pytest.raises(UserError, match=r"x\.parquet: row 2: a second start image for 'a'; number them in "):
        start_images.digest(path, WANTED)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "caption,image\na,red.png\n", r"x\.csv: line 2: no image red\.png in "),
        ("x.csv", "caption,image\na,../../red.png\n", r"x\.csv: line 2: no image \.\./\.\./red\.png in "),
        ("x.csv", "caption,image\na\n", r"x\.csv: line 2: 1 fields where the header has 2"),
        ("x.csv", "prompt,image\na,b\n", r"x\.csv: no columns caption and image; it has prompt, image"),
        ("x.csv", "caption,image,image_index\na,x.csv,one\n", r"x\.csv: line 2: image_index is 'one', not a whole n"),
        ("x.csv", "caption,image,image_index\na,x.csv,\n", r"x\.csv: line 2: image_index is '', not a whole n"),
        ("x.csv", "caption,image\na,x.csv\nb,x.csv\n", r"x\.csv: line 2: image cannot be decoded"),
        ("x.parquet", "no table", r"x\.parquet: not readable"),
        ("x.png", "", r"x\.png: not a known table; a table is \.parquet, \.csv or \.tsv"),
    ],
)
def test_bad_tables_are_refused(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=f"--init-images .*{message}"):
        start_images.digest(str(tmp_path / name), WANTED)


def test_a_folder_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--init-images .*: neither a finished folder of images nor a table"):
        start_images.digest(str(tmp_path), WANTED)


def test_true_images_are_start_images(tmp_path: Path) -> None:
    caption = "a big red circle on a teal background"
    (tmp_path / "prompts.txt").write_text(f"{caption}\n")
    render_images.main(render_images.RenderConfig(str(tmp_path / "prompts.txt"), str(tmp_path / "true")))
    start_images.digest(str(tmp_path / "true"), image_sets.wanted_images([caption], 2, seed=9))
