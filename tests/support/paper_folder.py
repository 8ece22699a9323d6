"""A folder as `make paper` leaves it, made by hand: one-coloured images, judges that read a colour, two seeds."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from infra.base import files
from infra.local import paper
from labelers.labels import accuracy
from labelers.scoring import scorers, scoring_pass
from labelers.scoring.pair_scores import DecodePairs, ScorePairs
from pipelines.experiments import rejection_sampling
from pipelines.judging import score, score_files
from pipelines.latents import label_files, store
from pipelines.paper.paper_run import DPO, FEEDBACK, SFT, TRIALS, WEAKER
from pipelines.raw.raw_pairs import labelled_pair, write_pairs
from support import judging_material
from support.judging_material import write_images, write_run
from support.pages import EVIL

JUDGES = ("oracle", "fidelity", *FEEDBACK)
SEEDS = (0, 1)
CAPTIONS = [f"{EVIL} {number}" for number in range(6)]
BASE = (100, 50)  # red and green of the base's images; the oracle reads red, fidelity green
GAINS = {DPO: (20, 5), SFT: (-20, -5), WEAKER: (10, 0)}  # of a trial's red and green; others gain a little


@contextlib.contextmanager
def written(folder: Path) -> Iterator[str]:
    """Write the folder; meanwhile all judges' names, and the implicit reward's, are those of readers of a channel."""
    with pytest.MonkeyPatch.context() as patch:
        judging_material.name_scorers(patch)
        for name in (*JUDGES, "implicit"):
            channel = "Green" if name in ("fidelity", "hpsv2", "aesthetics") else "Red"
            patch.setitem(scorers.SCORERS, name, f"support.judging_material:{channel}")
        yield write_paper(folder)


def write_paper(folder: Path) -> str:
    """Write the whole folder.

    Each trial's images beat the base's by GAINS on all captions but one, which is a tie, and seed 1's on one less.
    """
    run = str(folder)
    hashes = {name: _write_store(folder, name) for name in ("store", "held_out_store", "weaker_store")}
    (folder / "validation.txt").write_text("picked by this\n")
    base = write_scored(folder / "sweep" / "base" / "images", colours_of(0, 0, 0), model="base-model")
    trials = [_write_trial(folder, name, seed, hashes) for name in TRIALS for seed in SEEDS]
    sharing = {
        "store": {f"{run}/store": len(trials) - 2, f"{run}/weaker_store": 2},
        "reference": {f"{run}/store": {"seed-0": 11, "seed-1": 11}},
    }
    report = {"schema_version": 1, "base": {"model": "base-model", "images": base}, "judges": JUDGES, "seeds": SEEDS,
            "trials": trials, "sharing": sharing}  # fmt: skip
    files.write_json(f"{run}/sweep/sweep.json", report)
    _write_implicit(folder)
    for judge in ("oracle", "fidelity"):
        for seed in SEEDS:
            draws = {caption: (number + seed) % 3 for number, caption in enumerate(CAPTIONS)}  # 0: not within the cap
            path = folder / "rejection" / judge / f"seed-{seed}" / rejection_sampling.RESULT
            files.write_json(str(path), {"config": {"cap": 100}, "draws": draws})
    for kind, strength in (("edits", 0.6), ("layouts", 0.98)):
        for name, gain in (("base", 0), ("seed-0", 9), ("seed-1", 9)):
            identity = {"strength": strength, "init_images": "the same"}
            write_scored(folder / "sdedit" / kind / name, colours_of(gain, gain, 0), **identity)
    files.write_json(f"{run}/steps.json", _steps(run))
    return run


def _steps(run: str) -> list[dict[str, Any]]:
    commands = [
        ("draw", f"python pipelines/generate.py --output {run}/drawn/train", 10.0),
        ("encode", f"python pipelines/encode_latents.py --source {run}/raw --store {run}/store", 7.0),
        (
            "encode weaker",
            f"python pipelines/encode_latents.py --source {run}/weaker_raw --store {run}/weaker_store",
            5.0,
        ),
        ("label", f"python labelers/relabel.py --store {run}/store --scorer clip", 3.0),
        ("errors 0", f"python pipelines/encode_reference.py --store {run}/store --name seed-0 --seed 0", 4.0),
        ("sweep", f"python pipelines/sweep.py --output {run}/sweep", 100.0),
        ("reject", f"python pipelines/rejection_sampling.py --model {run}/sweep/{DPO}/seed-0/train/result", 8.0),
        ("report", f"python pipelines/paper_report.py --run {run}", None),  # under way while it reads this
    ]
    return [{"title": title, "command": command.split(), "seconds": seconds} for title, command, seconds in commands]


def colours_of(red: int, green: int, tied: int) -> dict[str, list[tuple[int, int, int]]]:
    """Return captions' colours, the first few as the base's."""
    gains = [(0, 0) if number < tied else (red, green) for number in range(len(CAPTIONS))]
    return {
        caption: [(BASE[0] + 9 * number + step[0], BASE[1] + 5 * number + step[1], 0)]
        for number, (caption, step) in enumerate(zip(CAPTIONS, gains, strict=True))
    }


def write_scored(folder: Path, colours: dict[str, list[tuple[int, int, int]]], **identity: Any) -> str:
    """Write images and every judge's scores, with a judgement of the set that needs no network."""
    path = write_images(folder, colours, fingerprints={"unet": f"weights of {folder.name}"}, **identity)
    known = {name: scorers.load(name).fingerprint for name in JUDGES}
    score.score_folder(score.ScoreConfig(images=(path,), scorers=JUDGES), path, known, dict.fromkeys(JUDGES))
    about = {"of": score_files.images_hash(path)}
    judged = {"images": len(colours)}
    score_files.write_set(path, {"identity": about, "judged": judged, "config": {"feature_model": "m"}})
    return path


def _write_trial(folder: Path, name: str, seed: int, hashes: dict[str, str]) -> dict[str, Any]:
    where = folder / "sweep" / name / f"seed-{seed}"
    labels = name if name in FEEDBACK else "human"
    pairs = "weaker_store" if name == WEAKER else "store"
    sha = label_files.read_labels_manifest(str(folder / pairs), labels)["sha256"]
    train = write_run(where / "train", SFT if name == SFT else "dpo", hashes[pairs], labels, sha)
    path = where / "train" / "result" / "facts.json"
    facts = json.loads(path.read_text())
    beta = float(name.split("-")[1]) if name.startswith("beta-") else 500.0
    method, _, times = name.rpartition("-x")
    objective: dict[str, Any] = {"beta": "auto" if method == "auto-beta" else beta}
    if method in ("safeguard", "sft-weight"):
        objective[method.replace("-", "_")] = float(paper.STEADY[method][1])
    facts["config"] |= {"seed": seed, "objective": facts["config"]["objective"] | objective}
    rate = int(times) if method else 500 / beta if name.endswith("-scaled") else 1
    facts["config"]["optimizer"]["learning_rate"] = 1e-5 * rate
    facts["config"]["validation"]["validation_prompts"] = str(folder / "validation.txt")
    path.write_text(json.dumps(facts))
    red, green = GAINS.get(name, (1, 1))
    images = write_scored(where / "images", colours_of(red, green, 1 + seed), model=f"{train}/result")
    return {
        "name": name, "seed": seed, "command": f"python training/train_dpo.py --output {train} --beta {beta:g}",
        "train": train, "draw": f"python pipelines/generate.py --model {train}/result --output {images}",
        "images": images, "best_step": 2, "seconds": {"train": 1.0},
    }  # fmt: skip


def _write_store(folder: Path, name: str) -> str:
    """Write raw pairs and a store of them: eight captions of its own, winners of the higher red, one pair tied."""
    raw, content = folder / name.replace("store", "raw"), f"{name:x<32}"[:32]
    rows = []
    for number in range(8):
        winner, loser = (30 + number, 20 + number) if name == "weaker_store" else (120 + number, 80 + number)
        shown = [(f"{name}-{number}-{slot}", _jpeg(red)) for slot, red in enumerate((winner, loser))]
        label = 0.5 if number == 7 else 1.0
        rows.append(labelled_pair(number, f"{name} caption {number}", shown, label, "base-model"))
    write_pairs(str(raw), rows, {})
    ids = scoring_pass.open_pairs(str(raw), "train").ids
    table = pa.table([ids, *([None] * len(ids),) * 2, [row["label_0"] for row in rows], [None] * len(ids)],
                     names=label_files.LABELS_SCHEMA.names)  # fmt: skip
    path = str(folder / name)
    for label_set in ("human", *FEEDBACK):
        about = {"scorer": "human"}
        if label_set != "human":
            settings = {"scorer": label_set, "fingerprint": scorers.load(label_set).fingerprint}
            about = {"settings": settings, "agreement": {"value": 0.75}}  # type: ignore[dict-item]
        label_files.write_labels(path, label_set, table, about)
    captions = pa.table({"caption": ["", *(row["caption"] for row in rows)]})
    files.write_table(f"{path}/prompts/part-0.parquet", captions)
    counts = store.Counts(rows_in=8, ties=1, invalid=0, quarantined=0, kept=7, contradicting=0, prompts=8)
    store.publish(path, store.Manifest(
        source=str(raw), model="m", fingerprints={}, resolution=64, latent_shape=(4, 8, 8), scaling_factor=1.0,
        shift_factor=0.0, posterior="sample", flip=False, embeddings={}, counts=counts, reasons={},
        content_hash=content, config={}, files={},
    ))  # fmt: skip
    return content


def _jpeg(red: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (red, 255 - red, 0)).save(buffer, format="JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _write_implicit(folder: Path) -> None:
    """Write what accuracy.py leaves, of the held-out pairs; red agrees with people on all of them."""
    chosen = accuracy.read_labelled(str(folder / "held_out_raw"), "train")
    decoded = DecodePairs(chosen.ids)(pa.concat_tables(chosen.raw.dataset.pieces(chosen.raw.columns)))
    config = accuracy.AccuracyConfig(scorers=JUDGES, source=str(folder / "held_out_raw"))
    for name in ("scorers", *(f"seed-{seed}" for seed in SEEDS)):
        names = JUDGES if name == "scorers" else ("implicit",)
        scored = ScorePairs(names, {})(decoded)
        output = folder / "implicit" / name
        files.write_table(str(output / "test" / "scores" / "0.parquet"), scored)
        judges = {one: scorers.load(one) for one in names}
        rows = [accuracy.row(one, judges[one], accuracy.judged(chosen, scored.sort_by("pair_id"), one), None)
                for one in names]  # fmt: skip
        settings = {"test": accuracy.settings_of(chosen, judges)}
        files.write_json(str(output / accuracy.DONE), {"config": asdict(config), "settings": settings, "rows": rows})


def change(path: str, **values: Any) -> None:
    """Change keys of a JSON file."""
    files.write_json(path, files.read_json(path) | values)


def means(values: np.ndarray) -> list[float]:
    """Return each seed's mean, rounded."""
    return [round(float(one), 4) for one in values.mean(1)]
