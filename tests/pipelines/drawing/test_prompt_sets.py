"""Prompt sets: what the field's files look like, how long they are, and which columns group them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.material import PARTI

from infra.base.errors import UserError
from pipelines.drawing.prompt_sets import HPSV2_STYLES, PromptSet, read_set
from pipelines.drawing.prompts import read_grouped


def write_hpsv2(folder: Path, per_style: int = 800) -> Path:
    folder.mkdir()
    for style in HPSV2_STYLES:
        texts = [f"{style} number {number}" for number in range(per_style)]
        (folder / f"{style}.json").write_text(json.dumps(texts))
    return folder


def test_hpsv2_is_four_lists_of_one_style_each(tmp_path: Path) -> None:
    found = read_set(f"hpsv2={write_hpsv2(tmp_path / 'b')}")
    assert (found.name, found.rows, found.columns) == ("hpsv2", 3200, ["style"])
    counts = {style: sum(prompt.groups["style"] == style for prompt in found.prompts) for style in HPSV2_STYLES}
    assert counts == dict.fromkeys(HPSV2_STYLES, 800)
    assert found.prompts[800].caption == "concept-art number 0"


def test_flags_that_a_source_has_no_use_for_are_refused(tmp_path: Path) -> None:
    folder = write_hpsv2(tmp_path / "b")
    with pytest.raises(UserError, match="--category-column mood: hpsv2 has no columns"):
        read_set(f"hpsv2={folder}", columns=["mood"])
    (tmp_path / "p.txt").write_text("a cat\n")
    for given in (f"hpsv2={folder}", str(tmp_path / "p.txt")):
        with pytest.raises(UserError, match="--split test: only a datasets name"):
            read_set(given, split="test")


def test_hpsv2_with_a_missing_style_or_entry_is_refused(tmp_path: Path) -> None:
    folder = write_hpsv2(tmp_path / "b")
    (folder / "photo.json").write_text('["a", null]')
    with pytest.raises(UserError, match=r"photo\.json: entry 2: caption is null"):
        read_set(f"hpsv2={folder}")
    (folder / "photo.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match=r"photo\.json: not a JSON list"):
        read_set(f"hpsv2={folder}")
    (folder / "photo.json").write_text("[")
    with pytest.raises(UserError, match=r"photo\.json: not valid JSON"):
        read_set(f"hpsv2={folder}")
    (folder / "photo.json").unlink()
    with pytest.raises(UserError, match=r"--prompts hpsv2=.*photo\.json is missing"):
        read_set(f"hpsv2={folder}")


def test_a_named_set_of_another_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3,196 prompts, but hpsv2 has 3,200"):
        read_set(f"hpsv2={write_hpsv2(tmp_path / 'b', 799)}", limit=40)  # the limit does not hide it
    (tmp_path / "p.tsv").write_text("Prompt\tCategory\tChallenge\na\tb\tc\n")
    with pytest.raises(UserError, match=r"--prompts parti=.*: 1 prompts, but parti has 1,632: give PartiPrompts\.tsv"):
        read_set(f"parti={tmp_path}/p.tsv")
    (tmp_path / "p.tsv").write_text("Prompt\tCategory\na\tb\n")
    with pytest.raises(UserError, match="no column Challenge; it has Prompt, Category"):
        read_set(f"parti={tmp_path}/p.tsv")


def test_pick_a_pic_is_read_without_its_images(tmp_path: Path) -> None:
    captions = [f"caption {number}" for number in range(500)]
    folder = tmp_path / "validation_unique"
    folder.mkdir()
    for part in (0, 1):
        texts = captions[250 * part : 250 * (part + 1)]
        pq.write_table(pa.table({"caption": texts, "jpg_0": [b"no image"] * 250}), folder / f"{part}.parquet")
    found = read_set(f"pick-a-pic={folder}", limit=3)
    assert (found.captions, found.rows, found.columns) == (captions[:3], 500, [])
    (folder / "1.parquet").unlink()
    with pytest.raises(UserError, match="250 prompts, but pick-a-pic has 500"):
        read_set(f"pick-a-pic={folder}")


@pytest.mark.slow
def test_a_name_without_a_place_or_one_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--prompts parti: say where it lies, --prompts parti=PATH: PartiPrompts\.tsv"):
        read_set("parti")
    with pytest.raises(UserError, match=r"--prompts someone/texts: .* datasets cannot load it"):
        read_set("someone/texts")
    with pytest.raises(UserError, match="no such file of captions"):
        read_set(str(tmp_path / "x.txt"))


def test_columns_are_found_by_name_or_chosen(tmp_path: Path) -> None:
    path = tmp_path / "p=1.csv"  # no known name stands before the sign
    path.write_text("style,prompt,animal,CATEGORY\noil,a cat,cat,\nphoto,a dog,dog,pets\n")
    found = read_set(str(path))
    assert (found.name, found.columns) == ("p=1.csv", ["CATEGORY", "style"])
    assert found.prompts[0].groups == {"CATEGORY": "(none)", "style": "oil"}
    assert read_set(str(path), ("Animal",)).prompts[1].groups == {"animal": "dog"}
    with pytest.raises(UserError, match="no column breed; it has style, prompt, animal, CATEGORY"):
        read_set(str(path), ("breed",))


def test_what_is_written_is_what_was_read(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text('caption,Category\n"two\nlines, é",x\n0001,y\n')
    found = read_set(str(tmp_path / "p.csv"))
    (tmp_path / "again.jsonl").write_bytes(found.content)
    assert tuple(read_grouped(str(tmp_path / "again.jsonl"), found.columns)) == found.prompts
    moved = PromptSet("other", "elsewhere", found.prompts, 2)
    assert moved.sha256 == found.sha256  # contents count, not where they lay


def test_parti_prompts_with_their_categories_and_challenges() -> None:
    found = read_set(f"parti={PARTI}")
    assert (found.rows, len(set(found.captions)), found.columns) == (1632, 1632, ["Category", "Challenge"])
    assert len({prompt.groups["Category"] for prompt in found.prompts}) == 12
    assert sum(prompt.groups["Category"] == "People" for prompt in found.prompts) == 177
    assert len({prompt.groups["Challenge"] for prompt in found.prompts}) == 11
