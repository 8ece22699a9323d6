"""Relabelling: in one process with a stand-in engine, and on a real cluster under SIGKILL."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.forked import Forked
from support.material import Submit, wait_for

from infra.base.errors import UserError
from labelers.labels import label_set, relabel
from labelers.scoring import pair_scores, scorers, scoring_pass
from pipelines.engine.jobs import Job
from pipelines.latents import encoders, label_files, store
from pipelines.latents.captions import CaptionEncoder
from pipelines.raw import contents, source
from training.run import assembly, loop
from training.settings.config import DataConfig, TrainConfig

SCRIPT = "labelers/relabel.py"
SMALL = scoring_pass.SpeedConfig(batch_size=16, rows_per_file=64)


@pytest.fixture
def config(raw_pairs: Path, copied_store: Path) -> relabel.RelabelConfig:
    return relabel.RelabelConfig(scorer=("oracle",), source=str(raw_pairs), store=str(copied_store), speed=SMALL)


@pytest.mark.slow
def test_the_kept_pairs_are_labelled_and_no_other(config: relabel.RelabelConfig, noted_jobs: list[Job]) -> None:
    relabel.main(replace(config, scorer=("oracle", "fidelity")))
    assert len(noted_jobs) == 1  # one pass for both
    kept = store.kept_pairs(config.store)["pair_id"].to_numpy()
    for name in ("oracle", "fidelity"):
        table, _ = label_files.read_labels(config.store, name)
        assert np.array_equal(table["pair_id"].to_numpy(), kept)  # not those that people tied, nor the bad rows
    manifest = label_files.read_labels_manifest(config.store, "oracle")
    # The renders show the caption or a wrong background, so the oracle agrees with the labels everywhere but in the
    # one pair whose label was made to contradict.
    assert manifest["agreement"]["value"] > 0.99
    assert manifest["counts"]["labelled"] == len(kept)
    assert not (Path(config.store) / "labels" / store.WORK / "oracle+fidelity").exists()


@pytest.mark.usefixtures("noted_jobs")
@pytest.mark.slow
def test_neither_latents_nor_captions_are_encoded_again(
    config: relabel.RelabelConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[str] = []
    for encoder in (encoders.LatentEncoder, CaptionEncoder):
        monkeypatch.setattr(encoder, "encode", lambda *_, name=encoder.__name__: calls.append(name))
    parts = [path for part in ("pairs", "prompts") for path in (Path(config.store) / part).rglob("*.parquet")]
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in parts}
    relabel.main(config)
    data = DataConfig(store=config.store, labels="oracle", cache=str(tmp_path / "c"), global_batch=8, micro_batch=4)
    loop.train(TrainConfig(output=str(tmp_path / "run"), steps=2, checkpoint_every=2, data=data), assembly.Rank())
    assert calls == []
    assert before == {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in parts}
    assert (tmp_path / "run" / "result" / "facts.json").exists()


def test_finished_label_sets_are_left_alone_and_other_settings_refused(
    config: relabel.RelabelConfig, noted_jobs: list[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    relabel.main(config)
    part = Path(config.store) / "labels" / "oracle" / "part-0.parquet"
    before = part.stat().st_mtime_ns
    relabel.main(replace(config, speed=scoring_pass.SpeedConfig(batch_size=3)))  # speed is no setting of the labels
    assert "already finished" in capsys.readouterr().out
    relabel.main(replace(config, source=f"{config.source}/"))  # nor is the spelling of its path one of the source
    assert (part.stat().st_mtime_ns, len(noted_jobs)) == (before, 1)
    with pytest.raises(UserError, match=r"label was 'hard', now 'soft'; min_margin was 0\.0, now 0\.1"):
        relabel.main(replace(config, label="soft", min_margin=0.1))


def test_another_rule_takes_the_known_scores(config: relabel.RelabelConfig, noted_jobs: list[Job]) -> None:
    relabel.main(config)
    relabel.main(replace(config, names=("near",), min_margin=0.32))
    assert len(noted_jobs) == 1
    first, near = (label_files.read_labels(config.store, name)[0] for name in ("oracle", "near"))
    assert first["score_0"] == near["score_0"]
    gap = np.abs(first["score_0"].to_numpy().astype(float) - first["score_1"].to_numpy())
    assert np.array_equal(near["label_0"].to_numpy() == 0.5, gap < 0.32)
    assert 0 < (gap < 0.32).sum() < len(gap)


@pytest.mark.usefixtures("noted_jobs")
@pytest.mark.slow
def test_a_run_killed_between_its_label_sets_scores_nothing_twice(
    config: relabel.RelabelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = replace(config, scorer=("oracle", "fidelity"))
    real, judge, scored = label_set.write, pair_scores.judge, list[int]()

    def die(destination: str, name: str, *rest: Any) -> dict[str, Any]:
        if name == "fidelity":
            raise KeyboardInterrupt
        return real(destination, name, *rest)

    monkeypatch.setattr(label_set, "write", die)
    with pytest.raises(KeyboardInterrupt):
        relabel.main(both)
    monkeypatch.setattr(label_set, "write", real)
    monkeypatch.setattr(scoring_pass, "try_scorers", lambda *_: None)

    def count(scorer: scorers.Scorer, images: Any, captions: list[str]) -> Any:
        scored.append(len(captions))
        return judge(scorer, images, captions)

    monkeypatch.setattr(pair_scores, "judge", count)
    relabel.main(both)
    assert sum(scored) == 0
    assert {"oracle", "fidelity"} <= set(label_files.label_sets(config.store))


@pytest.mark.usefixtures("noted_jobs")
def test_a_corrupt_image_is_quarantined_and_its_batch_is_not(config: relabel.RelabelConfig, tmp_path: Path) -> None:
    victim, spoilt = int(store.kept_pairs(config.store)["pair_id"].to_numpy()[7]), tmp_path / "spoilt"
    spoilt.mkdir()
    for path in Path(config.source).glob("*.parquet"):
        table = pq.read_table(path)
        images = table["jpg_0"].to_pylist()
        for row in np.flatnonzero(encoders.pairs.pair_ids(table) == victim):
            images[row] = images[row][:50]
        column = table.schema.get_field_index("jpg_0")
        pq.write_table(
            table.set_column(column, "jpg_0", pa.array(images, pa.binary())), spoilt / f"cut-anew-{path.name}"
        )
    relabel.main(replace(config, source=str(spoilt)))
    manifest = label_files.read_labels_manifest(config.store, "oracle")
    assert manifest["counts"]["quarantined"] == 1
    assert manifest["reasons"] == {"image_0: image cannot be decoded: OSError": 1}
    assert victim not in label_files.read_labels(config.store, "oracle")[0]["pair_id"].to_pylist()


def not_a_number(images: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
    del captions
    return [float("nan")] * len(images)


def test_a_scorer_without_one_finite_score_is_refused_and_leaves_nothing(
    config: relabel.RelabelConfig, noted_jobs: list[Job]
) -> None:
    name = f"{__name__}:not_a_number"
    with pytest.raises(UserError, match="score is not finite, on every one of 16 pairs"):
        relabel.main(replace(config, scorer=(name,)))
    assert noted_jobs == []
    assert label_files.label_sets(config.store) == ["human"]


class Weighted:
    """Has weights, as the real scorers do."""

    temperature, fingerprint, score = 1.0, "f", not_a_number

    def __init__(self, weights: str) -> None:
        self.weights = weights

    def check(self) -> None:
        pass


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"scorer": ("taste",)}, "scorer 'taste': unknown"),
        ({"scorer": ("oracle", "oracle")}, "each scorer and each label set once"),
        ({"names": ("human",)}, "human is the people's"),
        ({"names": ("../pairs",)}, "a label set has letters"),
        ({"names": ("a", "b")}, "2 names for 1 scorers"),
        ({"scorer": ("oracle", "fidelity"), "min_margin": 0.1}, "in the units of one scorer"),
        ({"weights": ("clip=/x",)}, "--weights clip=...: not among the scorers"),
        ({"weights": ("other",)}, "give world, published or NAME=PATH"),
        ({"source": "/nowhere"}, "/nowhere does not exist"),
        ({"source": "infra/world/pairs"}, "lacks 351 of the 351 pairs"),
        ({"store": "/nowhere"}, "no latent store here"),
        ({"speed": scoring_pass.SpeedConfig(batch_size=0)}, "--batch-size 0: must be at least 1"),
        ({"speed": scoring_pass.SpeedConfig(gpus_per_copy=-0.5)}, "--gpus-per-copy -0.5: must be at least 0"),
    ],
)
def test_bad_flags_are_refused_before_ray_starts(
    config: relabel.RelabelConfig, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        relabel.make_plan(replace(config, **changes))


def test_a_source_whose_images_changed_under_the_same_ids_is_refused(config: relabel.RelabelConfig) -> None:
    path = Path(config.store) / store.MANIFEST
    paths = source.parquet_files(config.source, config.split)
    manifest = json.loads(path.read_text())
    noted = contents.contents_of(config.source, paths)
    path.write_text(json.dumps(manifest | {"source_files": noted}))
    relabel.make_plan(config)
    name = Path(paths[0]).name
    path.write_text(json.dumps(manifest | {"source_files": noted | {name: noted[name] | {"sha256": "0" * 64}}}))
    with pytest.raises(UserError, match=rf"{name} has changed since .*encode again into another store"):
        relabel.make_plan(config)
    elsewhere = str(Path(config.store).parent / "other_source")
    shutil.copytree(config.source, elsewhere)
    told = rf"--source {elsewhere}: .* was encoded from {config.source}, .*; give --source {config.source}, or a whole"
    with pytest.raises(UserError, match=told):
        relabel.make_plan(replace(config, source=elsewhere))
    path.write_text(json.dumps({key: value for key, value in manifest.items() if key != "source_files"}))
    relabel.make_plan(config)  # a store of a version that noted nothing


def test_the_worlds_weights_do_not_judge_other_images(
    config: relabel.RelabelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(scorers.SCORERS, "weighted", f"{__name__}:Weighted")
    weighted = replace(config, scorer=("weighted",))
    relabel.make_plan(weighted)
    path = Path(config.store) / store.MANIFEST
    world = store.read_manifest(config.store).fingerprints["vae"]
    assert path.read_text().count(world) == 1
    path.write_text(path.read_text().replace(world, f"2:{'0' * 64}"))
    with pytest.raises(UserError, match="give --weights published"):
        relabel.make_plan(weighted)
    relabel.make_plan(replace(weighted, weights=("published",)))
    relabel.make_plan(config)  # the oracle has none


def test_on_a_cluster_a_broken_scorer_fails_with_its_sentence(
    raw_pairs: Path, copied_store: Path, drive: Submit
) -> None:
    flags = ["--source", str(raw_pairs), "--store", str(copied_store), "--scorer", "statistics:mean"]
    broken = drive(SCRIPT, *flags, check=False)
    assert broken.returncode != 0
    assert "error: scorer statistics:mean: scorer raised TypeError" in broken.stdout
    assert label_files.label_sets(str(copied_store)) == ["human"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["this process", pytest.param("ray", marks=pytest.mark.long)])
def test_sigkill_of_the_command_loses_and_doubles_nothing(
    engine: str,
    config: relabel.RelabelConfig,
    copied_store: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    both, clean = replace(config, scorer=("oracle", "fidelity")), copied_store.parent / "clean"
    shutil.copytree(copied_store, clean)
    work = copied_store / "labels" / store.WORK / "oracle+fidelity"
    flags = ["--source", config.source, "--scorer", "oracle", "fidelity", "--batch-size", "4", "--rows-per-file", "8"]
    # Outside a job: the command joins the running cluster if its environment names one.
    surroundings = request.getfixturevalue("ray_environment") if engine == "ray" else os.environ
    command = [*flags, "--store", str(copied_store)]
    driver = Forked(SCRIPT, command, copied_store.parent / "printed", surroundings)

    def safe() -> tuple[str, ...]:
        return tuple(path.stem for path in (work / "scores_done").glob("*.parquet") if ".pending" not in path.name)

    def scored() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (work / "scores").glob("*.parquet")}

    wait_for(lambda: len(safe()) >= 4, driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert label_files.label_sets(str(copied_store)) == ["human"]
    kept = {name: at for name, at in scored().items() if name.startswith(safe())}
    assert kept

    moved = shutil.copytree(config.source, copied_store.parent / "moved")
    with pytest.raises(UserError, match=r"source was '.*', now '.*moved'"):
        relabel.main(replace(both, source=str(moved)))
    publish = label_set.write
    left: list[dict[str, int]] = []

    def look(*given: Any) -> None:
        left.append(scored())
        publish(*given)

    monkeypatch.setattr(label_set, "write", look)
    relabel.main(replace(both, store=str(copied_store)))  # either engine began, this process finishes
    assert kept.items() <= left[0].items()
    assert len(left[0]) > len(kept)
    assert "agrees with people on" in capsys.readouterr().out
    relabel.main(replace(both, store=str(clean)))
    for name in ("oracle", "fidelity"):
        assert label_files.read_labels(str(copied_store), name)[1] == label_files.read_labels(str(clean), name)[1]
