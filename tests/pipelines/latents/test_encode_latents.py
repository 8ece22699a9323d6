"""The encoder on a real cluster: counts, contents, exactly-once under SIGKILL, refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support.material import MODEL, rendered_pairs, write_pairs
from support.stores import SCRIPT, refusal

from infra.base import cli
from infra.base.errors import UserError
from infra.base.files import ROOT
from pipelines.latents import autoencoders, encoders, schemas, store
from pipelines.latents.encode_config import EncodeConfig
from pipelines.latents.encode_latents import main
from pipelines.raw.decode import decode_image


def test_counts_and_manifest(encoded_store: Path) -> None:
    manifest = store.read_manifest(str(encoded_store))
    counts = manifest.counts
    # 400 pairs, every eighth a tie, and six bad rows; the contradicting one is kept, and only counted.
    assert counts.rows_in == 406
    assert (counts.ties, counts.invalid, counts.quarantined) == (50, 2, 5)
    assert counts.kept == 406 - 50 - 5
    assert counts.contradicting == 1
    assert sum(manifest.reasons.values()) == counts.quarantined
    store.verify(str(encoded_store), manifest, contents=True)
    again = cli.parse(EncodeConfig, {}, ["--config", str(encoded_store / "config.json")])
    assert {name: value for name, value in asdict(again).items() if name in manifest.config} == manifest.config


def test_quiet_on_a_finished_store_prints_what_it_holds_and_what_comes_next(
    encoded_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--config", str(encoded_store / "config.json"), "--store", str(encoded_store), "--quiet"]
    cli.run("pipelines.latents.encode_latents:main", EncodeConfig, arguments=flags)
    said = capsys.readouterr().out
    assert said.startswith(f"{encoded_store}: 351 pairs, ")
    assert said.endswith(
        f" bytes; next: python training/train_dpo.py --model infra/world/model --store {encoded_store}\n"
    )
    assert said.count("\n") == 1


def test_latents_are_the_vaes(encoded_store: Path, raw_pairs: Path) -> None:
    raw = pq.read_table(raw_pairs)
    ids = encoders.pairs.pair_ids(raw)
    table = store.pa.concat_tables(
        [pq.read_table(p, partitioning=None) for p in (encoded_store / "pairs" / "status=kept").glob("*.parquet")]
    )
    stored = dict(zip(table["pair_id"].to_pylist(), schemas.value_rows(table["latents_1"]), strict=True))
    vae = autoencoders.load_vae(MODEL, torch.float32)
    for row in [i for i, key in enumerate(ids) if key in stored][:4]:
        pixels = torch.from_numpy(decode_image(raw["jpg_1"][row].as_py(), 64).copy()).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            posterior = vae.encode(pixels).latent_dist
        scale = vae.config["scaling_factor"]
        distance = np.abs(stored[ids[row]].astype(np.float32) - (posterior.mean * scale).flatten().numpy())
        # One posterior sample lies within a few standard deviations of the mean.
        assert (distance < 6 * scale * posterior.std.flatten().numpy() + 2e-3).all()


def test_the_store_is_readable_without_us(encoded_store: Path) -> None:
    pattern = f"{encoded_store}/pairs/**/*.parquet"
    found = (
        duckdb.connect()
        .execute(f"select status, count(*) from read_parquet('{pattern}', hive_partitioning=true) group by 1")
        .fetchall()
    )
    assert dict(found) == {"kept": 351, "tie": 50, "quarantined": 5}
    import datasets

    prompts = datasets.load_dataset(
        "parquet",
        data_files=f"{encoded_store}/prompts/*.parquet",
        split="train",
        cache_dir=str(encoded_store.parent / "hf"),
    )
    assert "" in prompts["caption"]


@pytest.mark.chaos
def test_a_rerun_of_a_finished_store_does_nothing(
    encoded_store: Path, raw_pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in encoded_store.rglob("*.parquet")}
    config = EncodeConfig(source=str(raw_pairs), store=str(encoded_store))
    main(config)
    assert "already finished" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in encoded_store.rglob("*.parquet")}
    with pytest.raises(UserError, match="seed was 0, now 9"):
        main(replace(config, seed=9))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--source", "/nowhere"], "/nowhere does not exist"),
        (["--model", "/nowhere"], "there is no /nowhere"),
        (["--resolution", "60"], "not a multiple of 8"),
    ],
)
def test_bad_flags_are_refused_in_one_sentence(flags: list[str], told: str, raw_pairs: Path, tmp_path: Path) -> None:
    source = [] if "--source" in flags else ["--source", str(raw_pairs)]
    assert told in refusal(*source, *flags, "--store", str(tmp_path / "s"))


@pytest.mark.slow
def test_a_refusal_ends_the_process_with_2(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "--source", "/nowhere", "--store", str(tmp_path / "s")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (2, "error: --source /nowhere: /nowhere does not exist\n")


@pytest.mark.chaos
def test_duplicate_pairs_and_missing_columns_are_refused(tmp_path: Path) -> None:
    rows = rendered_pairs(3)
    twice = write_pairs(tmp_path / "twice", [*rows, rows[1]])
    assert "source row 3: the same ranking_id" in refusal("--source", str(twice), "--store", str(tmp_path / "s"))
    table = pq.read_table(write_pairs(tmp_path / "whole", rows)).drop_columns(["caption"])
    pq.write_table(table, tmp_path / "bare.parquet")
    told = refusal("--source", str(tmp_path / "bare.parquet"), "--store", str(tmp_path / "s"))
    assert "no column caption" in told


@pytest.mark.parametrize(
    ("begun", "told"),
    [
        ({"posterior": "mean"}, "posterior was 'mean', now 'sample'"),
        ({"source": "/theirs"}, "source was '/theirs', now '"),  # by a version that noted no contents
    ],
)
def test_an_unfinished_store_goes_on_only_with_its_own_settings(
    begun: dict[str, str], told: str, tmp_path: Path, raw_pairs: Path
) -> None:
    work = tmp_path / "s" / store.WORK
    work.mkdir(parents=True)
    (work / "config.json").write_text(json.dumps(asdict(EncodeConfig(source=str(raw_pairs))) | begun))
    assert told in refusal("--source", str(raw_pairs), "--store", str(tmp_path / "s"))


def test_a_source_that_was_moved_or_is_spelled_otherwise_is_the_same(
    encoded_store: Path, raw_pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(raw_pairs, tmp_path / "moved")
    config = EncodeConfig(store=str(encoded_store))
    for place in (f"{raw_pairs}/", str(moved)):
        main(replace(config, source=place))
        assert "already finished" in capsys.readouterr().out
    write_pairs(moved, rendered_pairs(1, seed=3))  # in place of the first file of seven
    with pytest.raises(UserError, match=rf"source was '{raw_pairs}', now '{moved}'"):
        main(replace(config, source=str(moved)))
