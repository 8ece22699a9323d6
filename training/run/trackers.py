"""Experiment trackers, fed from a run's notes: W&B, MLflow and trackio. TensorBoard's files the journal writes itself.

A thread reads the notes and sends what was not sent, so a slow server holds up no step, and one that fails ends no
training. What was sent is noted in the run folder: a resumed run goes on in the same curve, and sends no step twice.
"""

from __future__ import annotations

import importlib.util
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, get_args

from infra.base import begun, files, logs
from infra.base.config_files import as_saved
from infra.base.errors import UserError
from training.checkpoints.run_folder import ASSESSMENTS, STEPS, TRACKERS, parse_note, run_id
from training.settings.config import TrainConfig
from training.settings.tracking_config import Name

PATIENCE = 60.0  # seconds that the end of a training waits for a tracker
Row = Mapping[str, Any]


class Tracker(Protocol):
    """A client that is connected to one run of its server."""

    def log(self, rows: Sequence[Row]) -> None:
        """Send notes: numbers by name, and each row's step."""
        ...

    def close(self) -> None:
        """Send what the client still holds."""
        ...


def check(names: Sequence[Name]) -> None:
    """Refuse trackers whose client is not installed.

    Raises:
        UserError: naming the flag and what installs it.
    """
    for name in names:
        if name != "tensorboard" and importlib.util.find_spec(name) is None:
            raise UserError(
                f"--report-to {name}: its client is not installed; pip install 'diffusion-dpo[{name}]', or leave it out"
            )
    twice = [name for name in get_args(Name) if names.count(name) > 1]
    if twice:
        raise UserError(f"--report-to {twice[0]}: is named twice; name each tracker once")


class Feeder:
    """Sends a run's notes to one tracker, on a thread of its own."""

    lock = threading.Lock()  # of the file, which all feeders of a process share

    def __init__(self, name: Name, folder: Path, open_tracker: Callable[[str], Tracker]) -> None:
        """Begin to feed; what an earlier command could not send is sent first.

        Args:
            folder: the run folder, or this node's copy of one on S3.
            open_tracker: connects, given the run's id at the tracker.
        """
        self.name = name
        self.folder = folder
        self.open_tracker = open_tracker
        self.own = run_id(str(folder))
        self.read: dict[str, int] = {}  # bytes of each kind of notes
        self.more = threading.Event()
        self.ended = False
        self.thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Send the last notes, or give up after a while and say so."""
        self.ended = True
        self.more.set()
        self.thread.join(PATIENCE)
        if self.thread.is_alive():
            logs.LOGGER.warning(
                f"--report-to {self.name}: not all was sent within {PATIENCE:.0f} s of the end; the notes in "
                f"{self.folder} are whole, and the same command with more --steps sends the rest"
            )

    def _work(self) -> None:
        try:
            with self.lock:
                state = read_state(self.folder, self.name)
                write_state(self.folder, self.name, state)  # its id, before the tracker knows it
            tracker = self.open_tracker(state["id"])
            while True:
                ended = self.ended  # read before the notes: those of the last step are there by then
                self._send(tracker, state)
                if ended:
                    break
                self.more.wait()
                self.more.clear()
            tracker.close()
        except Exception as error:  # a tracker's own kinds, and the network's: none of them may end a training
            reason = logs.redact(" ".join(f"{type(error).__name__}: {error}".split()))
            logs.LOGGER.warning(f"--report-to {self.name}: {reason}; training goes on without it")

    def _send(self, tracker: Tracker, state: dict[str, Any]) -> None:
        for kind in (STEPS, ASSESSMENTS):
            rows = [row for row in self._new_notes(kind) if row["step"] > state["sent"].get(kind, 0)]
            if rows:
                tracker.log([numbers(row) for row in rows])
                state["sent"][kind] = rows[-1]["step"]
                with self.lock:
                    write_state(self.folder, self.name, state)

    def _new_notes(self, kind: str) -> list[dict[str, Any]]:
        """Read the whole lines that were written since the last look: a long run's notes are read once."""
        path = self.folder / kind
        if not path.is_file():
            return []
        with path.open("rb") as file:
            file.seek(self.read.get(kind, 0))
            text = file.read()
        end = text.rfind(b"\n") + 1
        self.read[kind] = self.read.get(kind, 0) + end
        rows = (parse_note(line, self.own) for line in text[:end].splitlines())
        return [row for row in rows if row is not None]


def numbers(row: Row) -> dict[str, float]:
    """Take a note's numbers: what is no number, or unknown, draws no curve."""
    return {key: value for key, value in row.items() if isinstance(value, int | float) and not isinstance(value, bool)}


def read_state(folder: Path, name: str) -> dict[str, Any]:
    """Read the id of a run at a tracker and the last step sent of each kind of notes; a new id where there is none."""
    return _read(folder).get(name) or {"id": secrets.token_hex(8), "sent": {}}


def write_state(folder: Path, name: str, state: Mapping[str, Any]) -> None:
    """Note what was sent."""
    files.write_json(str(folder / TRACKERS), _read(folder) | {name: state})


def _read(folder: Path) -> dict[str, Any]:
    path = folder / TRACKERS
    return files.read_json(str(path)) if path.is_file() else {}


def start(config: TrainConfig, folder: Path) -> list[Feeder]:
    """Begin to feed the trackers of a run, under the name of its folder.

    Args:
        folder: the run folder, or this node's copy of one on S3.
    """
    from training.run.tracker_clients import OPEN

    run = config.output.rstrip("/").rsplit("/", 1)[-1]
    settings = begun.by_full_name(as_saved(config))
    names = [name for name in config.tracking.report_to if name != "tensorboard"]
    return [Feeder(name, folder, partial(OPEN[name], run, settings, folder)) for name in names]
