"""The notes of a run: one JSON line a step and one a checkpoint, the same for TensorBoard, and sample grids."""

from __future__ import annotations

import json
import mmap
import sys
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from training.checkpoints.run_folder import ASSESSMENTS, ID, SAMPLES, STEPS, VALIDATION, parse_note, read_notes, run_id
from training.run import watchdog
from training.run.progress import Progress
from training.run.trackers import Feeder


def _cut_after(path: Path, step: int, own: str | None) -> int:
    """Cut a file of notes after the last one up to a step, and return that one's step; 0 where there is none.

    It is read from its end: a long run resumes as fast as a short one. What a kill or a power cut left there, a line
    cut short or NULs, goes, and so do notes of another run; stderr says how much.
    """
    if not path.exists() or not path.stat().st_size:
        return 0
    last = 0
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            end = text.rfind(b"\n") + 1
            unreadable = len(text) - end
            while end and not last:
                start = text.rfind(b"\n", 0, end - 1) + 1
                row = parse_note(text[start:end], own)
                if row is not None and row["step"] <= step:
                    last = row["step"]
                    break
                unreadable += 0 if row else end - start
                end = start
        file.truncate(end)
    if unreadable:
        print(
            f"{path}: {unreadable} bytes at its end are no whole line of this run and are cut",
            file=sys.stderr,
            flush=True,
        )
    return last


class Journal:
    """Writes a run's notes on rank 0; on other ranks it does nothing."""

    def __init__(
        self,
        output: Path,
        enabled: bool,
        steps: int,
        most_pairs_per_second: float | None = None,
        report: Callable[[Path], Sequence[Feeder]] = lambda _: (),
    ) -> None:
        """Note a run of so many steps.

        Args:
            most_pairs_per_second: the accelerators' peak, where it is known; each step then notes its share of it.
            report: begins to feed experiment trackers from the notes of a folder.
        """
        self.report = report
        self.feeders: Sequence[Feeder] = ()
        self.progress = Progress(steps)
        self.most_pairs_per_second = most_pairs_per_second
        self.output = output
        self.enabled = enabled
        self.board: SummaryWriter | None = None
        self.own: str | None = None  # the run's id

    def rewind(self, step: int) -> None:
        """Forget what was noted after a step: a resumed run notes it again."""
        if not self.enabled:
            return
        self.output.mkdir(parents=True, exist_ok=True)
        self.own = run_id(str(self.output))
        noted = _cut_after(self.output / STEPS, step, self.own)
        _cut_after(self.output / ASSESSMENTS, step, self.own)
        if noted < step:
            sentence = f"the notes of steps {noted + 1} to {step} are lost; training goes on without them"
            print(f"{self.output / STEPS}: {sentence}", file=sys.stderr, flush=True)
        self.board = SummaryWriter(str(self.output / "tensorboard"), purge_step=step + 1)
        if step:
            print(f"resumed after step {step:,}", flush=True)
        print(f"curves: tensorboard --logdir {self.output}", flush=True)
        self.feeders = self.report(self.output)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Read the notes of a kind."""
        return read_notes(str(self.output), name)

    def _note(self, name: str, row: dict[str, Any]) -> None:
        if not self.enabled:
            return
        with (self.output / name).open("a") as file:
            file.write(json.dumps(row if self.own is None else {ID: self.own, **row}) + "\n")
        for feeder in self.feeders:
            feeder.more.set()
        assert self.board is not None
        for key, value in row.items():
            if key != "step" and isinstance(value, (int, float)):
                self.board.add_scalar(key, value, row["step"])

    def step(self, row: dict[str, Any]) -> None:
        """Note one step."""
        share = ""
        if self.most_pairs_per_second:
            row = row | {"model_flop_utilisation": row["pairs_per_second"] / self.most_pairs_per_second}
            share = f"  {row['model_flop_utilisation']:.0%} of the peak FLOPs"
        self._note(STEPS, row)
        place = self.progress.describe(row["step"])
        if self.enabled and (row["step"] % 10 == 0 or row["step"] == 1):
            watched = watchdog.words([row])
            accuracy = "" if row["accuracy"] is None else f"accuracy {row['accuracy']:.2f}  "
            print(
                f"{place}  loss {row['loss']:.4f}  {accuracy}"
                f"gradient {row['gradient_norm']:.3f}  {row['pairs_per_second']:.1f} pairs/s"
                f"{share}{watched and '  '}{watched}",
                flush=True,
            )

    def assessment(self, step: int, values: dict[str, float]) -> None:
        """Note the figures of the policy at a checkpoint."""
        self._note(ASSESSMENTS, {"step": step, **values})
        if self.enabled and values:
            figures = [
                f"{name} {value:{',.0f' if name.endswith('_pairs') else '.4f'}}" for name, value in values.items()
            ]
            print(f"step {step}  " + "  ".join(figures), flush=True)

    def picture(self, step: int, grid: Image.Image, name: str) -> None:
        """Keep a grid of images.

        Args:
            name: VALIDATION or SAMPLE, the beginning of its file's name.
        """
        if self.enabled:
            folder = self.output / SAMPLES
            folder.mkdir(parents=True, exist_ok=True)
            grid.save(folder / f"{name}-{step:07d}.png")
            assert self.board is not None
            self.board.add_image(
                "samples" if name == VALIDATION else "sample prompts", np.asarray(grid), step, dataformats="HWC"
            )

    def is_pictured(self, step: int, name: str) -> bool:
        """Say whether the grid of images after a step is there already."""
        return (self.output / SAMPLES / f"{name}-{step:07d}.png").is_file()

    def best_step(self, steps: Container[int], limit: float | None = None) -> int | None:
        """Return the one of these steps with the highest median validation score, the first of equals.

        Without scores it is the last step whose winners were within --stop-when's limit; without either, None.
        """
        judged = [row for row in self.rows(ASSESSMENTS) if row["step"] in steps]
        scored = [row for row in judged if "validation_median" in row]
        if scored:
            return max(scored, key=lambda row: (row["validation_median"], -row["step"]))["step"]
        return None if limit is None else watchdog.healthy_step(judged, limit)

    def is_assessed(self, step: int) -> bool:
        """Say whether the policy after a step was judged already."""
        return any(row["step"] == step for row in self.rows(ASSESSMENTS))

    def close(self) -> None:
        """Write out what TensorBoard still holds, and wait for other trackers."""
        for feeder in self.feeders:
            feeder.close()
        if self.board is not None:
            self.board.close()

    def summary(self, steps: int) -> dict[str, Any]:
        """Sum up the run: steps, pairs/s and the share of time lost waiting for data, the first step left out.

        Args:
            steps: how many were taken; of those whose notes were lost nothing else is known.
        """
        rows = self.rows(STEPS)
        timed = rows[1:] or rows
        if not timed:
            return {"steps": steps, "pairs_per_second": None, "data_wait_fraction": None}
        seconds = sum(row["seconds"] for row in timed)
        pairs = sum(row["pairs_per_second"] * row["seconds"] for row in timed)
        return {
            "steps": steps,
            "pairs_per_second": pairs / seconds,
            "data_wait_fraction": sum(row["data_wait_seconds"] for row in timed) / seconds,
        }
