"""The encoder's dry run: what becomes of the rows, the store's bytes by hand, refusals; no weights are there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.material import MODEL, rendered_pairs, write_pairs
from support.single_files import original_tensors, write_single
from support.stores import refusal

from infra.base import cli, counting, dry_run, files
from infra.base.dry_run import DryRunConfig
from pipelines.latents import encode_config, encode_counts, encode_plan, kinds, safety
from pipelines.latents.encode_config import EncodeConfig
from pipelines.latents.encode_latents import main
from pipelines.latents.encode_plan import Networks, SourceRows, Stored, print_plan
from pipelines.raw import contents, raw_table, source

PAIRS = "pairs-00000.parquet"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 17 raw pairs, two of them ties and one without a caption, and a model without weights."""
    folder = tmp_path_factory.mktemp("encode_plan")
    rows = rendered_pairs(17)
    rows[16] |= {"caption": None}
    write_pairs(folder / "raw", rows)
    shutil.copytree(MODEL, folder / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def test_rows_are_counted_by_what_becomes_of_them(folder: Path) -> None:
    found = encode_plan.read_source(
        raw_table.open_source(source.parquet_files(str(folder / "raw"), "train")), strict_labels=False
    )
    captions = {row["caption"] for row in rendered_pairs(16) if row["label_0"] != 0.5}
    assert found == SourceRows(rows=17, ties=2, refused=1, prompts=len(captions))
    assert found.kept == 14


def test_bytes_and_work_by_hand() -> None:
    networks = Networks(
        vae_parameters=10, image=3e12, activations=7, captions={"text_encoder": 1e12}, embeddings={"text": (2, 5)}
    )
    stored = Stored(latent_shape=(4, 8, 8), posterior="moments", flip=True)
    assert stored.pair_bytes == 2 * 4 * 256 * 2
    source = SourceRows(rows=10, ties=2, refused=1, prompts=3)
    rows = encode_plan.plan_rows(stored, DryRunConfig(), source, networks, copies=2, dtype="bfloat16")
    told = {name.strip(): value for name, value in rows}
    assert told["TFLOP per pair"] == "12"
    assert told["TFLOP of all"] == "88"  # 7 pairs x 12, and 3 captions with the empty one
    assert told["embeddings"] == dry_run.gigabytes(4 * 2 * 10)
    assert told["VAE, bfloat16"] == dry_run.gigabytes(20)
    assert told["memory per accelerator"].endswith("fits")


@pytest.mark.parametrize(
    ("kind", "beside"),
    [
        ("qwen-image", 34),  # of its template, which are dropped again
        ("sana", 204),  # <bos> and 205 words, marks and line breaks of its instruction; two of them are in the limit
        ("z-image", 0),  # its template counts against the limit
        ("sd3", 0),
    ],
)
def test_a_caption_s_work_is_that_of_all_tokens_that_the_encoder_reads(
    kind: str, beside: int, tiny_pipeline: Callable[[str], Path]
) -> None:
    folder = tiny_pipeline(kind)
    sized = str(kinds.kind_of(folder).sized)
    encoder = counting.empty(folder, sized)
    with torch.no_grad():
        read = torch.zeros(1, 16 + beside, dtype=torch.int64, device=counting.META)
        by_hand = counting.flops(partial(encoder, read))
    side = kinds.native_resolution(folder)
    assert encode_counts.count_networks(folder, side, 16, 1, "float32").captions[sized] == by_hand


def test_the_table_of_the_embedded_world(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--source", f"{folder}/raw", "--model", f"{folder}/model", "--store", f"{folder}/store"]
    cli.run(main, EncodeConfig, encode_config.PRESETS, [*flags, "--dry-run", "--batch-size", "2"], plan=print_plan)
    told = capsys.readouterr().out
    assert "14 (fewer where images do not decode)" in told
    assert f"{dry_run.gigabytes(14 * 2 * 256 * 2)}, [4, 8, 8] float16, sample" in told
    assert not (folder / "store").exists()


def test_it_counts_what_the_encoder_reads_of_a_folder_of_splits(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three splits beside each other, of 6, 4 and 2 pairs, and a hidden file: the split that is asked for counts."""
    for number, (name, count) in enumerate({"train": 6, "validation": 4, "._test": 3, "test": 2}.items()):
        written = write_pairs(tmp_path / name, rendered_pairs(count, seed=number)) / "pairs-00000.parquet"
        (tmp_path / "all").mkdir(exist_ok=True)
        written.rename(tmp_path / "all" / f"{name}-00000-of-00001.parquet")
    flags = ["--source", f"{tmp_path}/all", "--model", f"{folder}/model", "--store", f"{tmp_path}/store", "--dry-run"]
    for asked, rows in (([], 6), (["--split", "validation"], 4), (["--split", "test"], 2)):
        cli.run(main, EncodeConfig, encode_config.PRESETS, [*flags, *asked], plan=print_plan)
        assert capsys.readouterr().out.splitlines()[0].split() == ["rows", str(rows)]


def test_models_in_one_file_and_in_a_variant_are_the_same_to_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    file = write_single(tmp_path / "model.safetensors", original_tensors(MODEL))
    half = tmp_path / "half"
    shutil.copytree(MODEL, half)
    for path in half.rglob("*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    tables = []
    for model in (str(MODEL), f"{folder}/model+{file}", str(half)):
        flags = ["--source", f"{folder}/raw", "--model", model, "--store", f"{tmp_path}/store", "--dry-run"]
        cli.run(main, EncodeConfig, encode_config.PRESETS, flags, plan=print_plan)
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1] == tables[2]


def test_its_refusals_are_the_encoder_s(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", f"{folder}/model", "--store", f"{folder}/store", "--dry-run"]
    for more, told in (
        (["--source", f"{folder}/raw", "--resolution", "63"], "--resolution 63: not a multiple of 8"),
        (["--source", f"{folder}/nowhere"], "nowhere does not exist"),
        (["--source", f"{folder}/raw", "--batch-size", "0"], "--batch-size 0: must be at least 1"),
        (["--source", f"{folder}/raw", "--store", f"{folder}/raw/store"], "raw/store: lies in --source"),
    ):
        with pytest.raises(SystemExit):
            cli.run(main, EncodeConfig, encode_config.PRESETS, [*flags, *more], plan=print_plan)
        assert told in capsys.readouterr().err


def noted_of(raw: Path, **others: str) -> dict[str, dict[str, Any]]:
    """Return what an unfinished store notes of its settings and its source."""
    settings = encode_config.store_identity(EncodeConfig(source=str(raw)), safety.Filter(None, None, {}))
    return {"config.json": settings | others, "source.json": contents.contents_of(str(raw), [f"{raw}/{PAIRS}"])}


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ({"manifest.json": "{}"}, "manifest.json: another file's content, without schema_version"),
        ({"manifest.json": "[]"}, "manifest.json: another file's content, without schema_version"),
        ({"manifest.json": '{"schema_version": 1}'}, "manifest.json: not a whole manifest"),
        ({".work/config.json": "[]"}, "config.json: another file's content"),
        ({".work/source.json": "[]"}, "source.json: another file's content"),
        ({"pairs/status=kept/a.parquet": ""}, "store: has pairs, but neither manifest.json nor a record of progress;"),
        ({"a.parquet": ""}, "store: holds images or tables that are of no store"),
    ],
)
def test_a_store_that_is_not_whole_is_refused_by_both(
    written: dict[str, str], told: str, folder: Path, tmp_path: Path
) -> None:
    for name, text in written.items():
        files.write_bytes(f"{tmp_path}/store/{name}", text.encode())
    flags = ["--source", f"{folder}/raw", "--store", f"{tmp_path}/store"]
    sentence = refusal(*flags)
    assert told in sentence
    assert refusal(*flags, "--dry-run") == sentence


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_source_that_changed_is_refused_by_both(
    is_finished: bool, folder: Path, copied_store: Path, tmp_path: Path
) -> None:
    raw = shutil.copytree(folder / "raw", tmp_path / "raw")
    noted = noted_of(raw)
    if is_finished:
        manifest = files.read_json(f"{copied_store}/manifest.json")
        manifest["config"]["source"] = str(raw)
        files.write_json(f"{copied_store}/manifest.json", manifest | {"source_files": noted["source.json"]})
    else:
        copied_store = tmp_path / "unfinished"
        for name, value in noted.items():
            files.write_json(f"{copied_store}/.work/{name}", value)
    flags = ["--source", str(raw), "--store", str(copied_store)]
    cli.run(main, EncodeConfig, encode_config.PRESETS, [*flags, "--dry-run"], plan=print_plan)
    write_pairs(raw, rendered_pairs(17, seed=1))
    sentence = refusal(*flags)
    assert f"from which {copied_store} was begun: {PAIRS} has changed since" in sentence
    assert refusal(*flags, "--dry-run") == sentence


def test_a_source_that_was_moved_is_the_same_to_it(
    encoded_store: Path, raw_pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(raw_pairs, tmp_path / "moved")
    flags = ["--source", str(moved), "--store", str(encoded_store), "--dry-run"]
    cli.run(main, EncodeConfig, encode_config.PRESETS, flags, plan=print_plan)
    assert capsys.readouterr().out.startswith("rows")
    write_pairs(moved, rendered_pairs(1, seed=3))  # in place of the first file of seven
    assert f"source was '{raw_pairs}', now '{moved}'" in refusal(*flags)
