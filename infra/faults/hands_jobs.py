"""The jobs that hands.py's touches are tried on while they run: each a command over small material of its own.

A folder of a round has `in`, what the job reads, and `out`, what it writes. The command runs in a fork of this process,
which has loaded what it imports, so that a round takes seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import multiprocessing
import os
import runpy
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import safe_open

from infra.base import files, models, row_digest, tables
from infra.faults.at_work import Hand
from pipelines.drawing import image_sets
from pipelines.latents import label_files, store

LOADED = (
    "pipelines.latents.encode_latents",
    "pipelines.latents.encode_passes",
    "labelers.labels.relabel",
    "training.run.alone",
    "pipelines.drawing.generate",
    "pipelines.drawing.draw_images",
)
ROWS = 48  # raw pairs
BLOCK = 16
PROMPTS = 6
FINISHED = 0
PATIENCE = 120  # seconds that a job may take


@dataclass(frozen=True, kw_only=True)
class Work:
    """A kind of job."""

    script: str
    flags: Callable[[Path], list[str]]  # by the folder of the round
    checks: Callable[[Path], list[list[str]]]  # commands that look at everything, to be given with --verify
    result: Callable[[Path], str]  # what it made, as text that is equal where the same was made
    output: str  # folder that it writes to, below the round's


def _store_flags(folder: Path) -> list[str]:
    return ["--store", str(folder / "out" / "store")]


def _store_checks(folder: Path) -> list[list[str]]:
    return [["pipelines/encode_latents.py", *_store_flags(folder)]]


def _encode(folder: Path) -> list[str]:
    speed = ["--rows-per-file", str(BLOCK), "--batch-size", "8"]
    return ["--source", str(folder / "in" / "raw"), *_store_flags(folder), *speed]


def _relabel(folder: Path) -> list[str]:
    speed = ["--rows-per-file", str(BLOCK), "--batch-size", "8"]
    return ["--scorer", "oracle", "--source", str(folder / "in" / "raw"), *_store_flags(folder), *speed]


def _train(folder: Path) -> list[str]:
    portions = ["--steps", "6", "--checkpoint-every", "2", "--global-batch", "8", "--micro-batch", "4"]
    places = ["--store", str(folder / "in" / "store"), *_train_output(folder)]
    return [*places, *portions, "--lora-rank", "2", "--beta", "500", "--cache", str(folder / "cache")]


def _train_output(folder: Path) -> list[str]:
    return ["--output", str(folder / "out" / "run")]


def _train_checks(folder: Path) -> list[list[str]]:
    store_read = ["pipelines/encode_latents.py", "--store", str(folder / "in" / "store")]
    return [["training/train_dpo.py", *_train_output(folder), "--cache", str(folder / "cache")], store_read]


def _generate(folder: Path) -> list[str]:
    places = ["--prompts", str(folder / "in" / "prompts.txt"), *_generate_output(folder)]
    return [*places, "--model", "infra/world/model", "--sampling-steps", "2", "--batch-size", "1"]


def _generate_output(folder: Path) -> list[str]:
    return ["--output", str(folder / "out" / "images")]


def _generate_checks(folder: Path) -> list[list[str]]:
    return [["pipelines/generate.py", *_generate_output(folder)]]


def _stored(folder: Path) -> str:
    path = str(folder / "out" / "store")
    manifest = store.read_manifest(path)
    rows = {}
    for part in (store.KEPT, "prompts"):
        table = tables.read(store.files_of(path, manifest, part))
        rows[part] = (table.num_rows, row_digest.rows_digest(table))
    human, _ = label_files.read_labels(path, "human")
    return repr((manifest.content_hash, manifest.counts, rows, human.to_pydict()))


def _labelled(folder: Path) -> str:
    path = str(folder / "out" / "store")
    table, _ = label_files.read_labels(path, "oracle")
    return repr((_stored(folder), table.to_pydict()))


def _trained(folder: Path) -> str:
    with safe_open(str(folder / "out" / "run" / "result" / models.ADAPTERS), "np") as weights:
        # Not the file's bytes: the order of its metadata changes from process to process.
        tensors = [(name, weights.get_tensor(name).tobytes()) for name in sorted(weights.keys())]
    return hashlib.sha256(repr(tensors).encode()).hexdigest()


def _drawn(folder: Path) -> str:
    return repr(image_sets.read_images(str(folder / "out" / "images")).to_pydict())


WORKS: Mapping[str, Work] = {
    "encode": Work(
        script="pipelines/encode_latents.py", flags=_encode, checks=_store_checks, result=_stored, output="out/store"
    ),
    "relabel": Work(
        script="labelers/relabel.py", flags=_relabel, checks=_store_checks, result=_labelled, output="out/store"
    ),
    "train": Work(
        script="training/train_dpo.py", flags=_train, checks=_train_checks, result=_trained, output="out/run"
    ),
    "generate": Work(
        script="pipelines/generate.py", flags=_generate, checks=_generate_checks, result=_drawn, output="out/images"
    ),
}


def load() -> None:
    """Import what the jobs import, once, so that their forks need not."""
    for name in LOADED:
        importlib.import_module(name)


def prepare(base: Path, version: int) -> None:
    """Make what each job reads, below a folder of its name; another version has other pairs and captions."""
    raw = base / "raw"
    raw.mkdir(parents=True)
    source = sorted((files.ROOT / "infra" / "world" / "pairs").glob("*.parquet"))[0]
    rows = pq.read_table(source).slice(version * ROWS, ROWS)
    for start in range(0, ROWS, BLOCK):
        pq.write_table(rows.slice(start, BLOCK), raw / f"raw-{start:03d}.parquet")
    captions = pc.unique(rows["caption"]).to_pylist()[:PROMPTS]
    for name in WORKS:
        (base / name / "in").mkdir(parents=True)
        (base / name / "out").mkdir()
    for name in ("encode", "relabel"):
        shutil.copytree(raw, base / name / "in" / "raw")
    (base / "generate" / "in" / "prompts.txt").write_text("\n".join(captions) + "\n")


def finish(base: Path) -> dict[str, int]:
    """Run each job once, undisturbed, the encoding first, whose store the others read; return each one's moments."""
    moments = {}
    for name, work in WORKS.items():
        if name in ("relabel", "train"):
            place = base / name / ("out" if name == "relabel" else "in") / "store"
            shutil.copytree(base / "encode" / "out" / "store", place)
            shutil.copytree(base / name, base / f"{name}-before")
        elif name in ("encode", "generate"):
            shutil.copytree(base / name, base / f"{name}-before")
        hand = Hand(base / name)
        ended = run(work.script, work.flags(base / name), base / f"{name}.log", hand)
        if ended.code != FINISHED:
            raise RuntimeError(f"{name}: does not finish even undisturbed: {ended.said}")
        moments[name] = hand.read().moments
    return moments


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    code: int | None
    said: str


def run(script: str, flags: Sequence[str], log: Path, hand: Hand | None = None) -> Ended:
    """Run a command in a fork to its end."""
    process = multiprocessing.get_context("fork").Process(target=_become, args=(script, flags, log, hand))
    process.start()
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
        return Ended(None, f"{log}: nothing after {PATIENCE} s")
    return Ended(process.exitcode, log.read_text(errors="replace"))


def _become(script: str, flags: Sequence[str], log: Path, hand: Hand | None) -> None:
    """Become `python SCRIPT FLAGS > LOG 2>&1`, in the fork."""
    with log.open("wb", buffering=0) as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.argv = [script, *flags, "--engine", "local"] if "--verify" not in flags else [script, *flags]
    with contextlib.ExitStack() as ended:
        if hand is not None:
            hand.begin()
            ended.callback(hand.end)
        runpy.run_path(str(files.ROOT / script), run_name="__main__")
