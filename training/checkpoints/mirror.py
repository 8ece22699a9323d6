"""A run folder on S3: each node works in a copy on its disk, and rank 0 sends what the run shall leave.

S3 is the record: what an earlier attempt left in a copy alone is forgotten. A checkpoint's marker and a result's facts
are sent last and deleted first, because without them there is no checkpoint and no result.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from infra.base import disk_errors, disk_lock, files, object_storage
from infra.base.errors import UserError
from infra.base.node_cache import cache_folder
from infra.base.result_files import FACTS
from training.checkpoints import checkpoint
from training.checkpoints.run_folder import (
    ASSESSMENTS,
    IDENTITY,
    PAGE,
    RESULT,
    SAMPLES,
    STEPS,
    TRACKERS,
    remove_result,
)
from training.settings.config import TrainConfig

NOTES = (STEPS, ASSESSMENTS, SAMPLES, PAGE, TRACKERS, "tensorboard")


def open_mirror(config: TrainConfig) -> Mirror | None:
    """Return this node's copy of a run folder on S3; None where the run folder is on a disk."""
    place = files.resolve(config.output)
    if not place.startswith(files.S3):
        return None
    name = f"run-{hashlib.sha256(place.encode()).hexdigest()[:16]}"
    return Mirror(place, cache_folder(config.data.cache) / name)


class Mirror:
    """A run folder on S3 and its copy on this node's disk.

    Only rank 0 calls begin, send, make_room, mark and finish; every rank calls bring and forget, and of a sharded
    checkpoint sends and drops its own part.
    """

    def __init__(self, place: str, local: Path) -> None:
        self.place = place
        self.local = local
        self._sent: dict[str, tuple[int, int]] = {}  # of each note: size and time when it was sent

    def begin(self) -> int | None:
        """Take the notes as S3 has them, and return the step that the run goes on from; None without a checkpoint.

        Raises:
            UserError: if S3 cannot be read, or the disk not written.
        """
        with self._refusing():
            object_storage.abort_uploads(self.place)
            for name in (*NOTES, RESULT):
                files.remove(str(self.local / name))
            for name in (IDENTITY, STEPS, ASSESSMENTS, TRACKERS):  # small; pictures and curves stay where they are
                if files.is_file(files.join(self.place, name)):
                    files.copy(files.join(self.place, name), str(self.local / name))
            return checkpoint.next_start(self.place)

    def bring(self, step: int) -> None:
        """Have a checkpoint of S3 on this node's disk, and no other; the first process of a node that asks copies it.

        Raises:
            UserError: naming the file that is missing, altered or outside; or if the disk cannot be written.
        """
        folder = checkpoint.folder_of(self.local, step)
        place = files.join(self.place, checkpoint.name_of(step))
        self.local.mkdir(parents=True, exist_ok=True)
        with self._refusing(), disk_lock.held(str(self.local / ".lock"), wait=True):
            marker = files.read_bytes(files.join(place, checkpoint.COMPLETE))
            for other in folder.parent.glob("step-*"):
                if other != folder:
                    checkpoint.drop(other)
            known = folder / checkpoint.COMPLETE
            _, parts = checkpoint.read_marker(place, marker)
            if known.is_file() and known.read_bytes() == marker and all((folder / name).is_file() for name in parts):
                return  # where shards of other nodes are missing, all are fetched
            checkpoint.begin(self.local, step)
            for name, expected in parts.items():
                self._bring_file(place, name, folder, expected)
            files.write_bytes(str(known), marker)

    def _bring_file(self, place: str, name: str, folder: Path, expected: str) -> None:
        path = files.inside(place, name)
        otherwise = f"delete {place} to resume from the one before"
        if not files.is_file(path):
            raise UserError(f"{path}: missing; {otherwise}")
        if files.copy(path, str(folder / name)) != expected:
            raise UserError(f"{path}: altered since it was written; {otherwise}")

    def send(self, step: int, keep: int, best: int | None) -> None:
        """Send the notes, make room, and send the checkpoint of a step that lies whole on this disk, its marker last.

        Raises:
            OSError: if something could not be sent, or a file is not what the marker says.
        """
        self.make_room(keep, best)
        self.mark(step, self.send_files(step, self._marked(step)))

    def make_room(self, keep: int, best: int | None) -> None:
        """Send the notes, which then reach to a step at least that a run goes on from, and delete old checkpoints."""
        self._send_notes()
        self._sweep(keep, best)

    def send_files(self, step: int, names: Iterable[str]) -> dict[str, str]:
        """Send files of a checkpoint, named from its folder on, and return the SHA-256 of what was sent of each."""
        folder = checkpoint.name_of(step)
        return {name: self._send_file(f"{folder}/{name}") for name in names}

    def mark(self, step: int, sent: Mapping[str, str]) -> None:
        """Send the marker of a checkpoint whose files have all been sent.

        Raises:
            OSError: if one of them is not what the marker says.
        """
        folder = checkpoint.name_of(step)
        for name, expected in self._marked(step).items():
            if sent.get(name) != expected:
                raise OSError(f"{self.local / folder / name}: altered since it was written")
        self._send_file(f"{folder}/{checkpoint.COMPLETE}")

    def drop_part(self, step: int) -> None:
        """Delete this disk's part of a checkpoint that S3 has whole, but where rank 0 is, which keeps and sweeps."""
        folder = checkpoint.folder_of(self.local, step)
        if not (folder / checkpoint.COMPLETE).is_file():
            shutil.rmtree(folder, ignore_errors=True)  # ranks of one node do it at once

    def _marked(self, step: int) -> dict[str, str]:
        return files.read_json(str(checkpoint.folder_of(self.local, step) / checkpoint.COMPLETE))["sha256"]

    def finish(self, keep: int, best: int) -> None:
        """Send the rest of a finished run: notes and result, its facts last; an older result goes.

        Raises:
            UserError: if something could not be sent.
        """
        with self._refusing():
            self._send_notes()
            self._sweep(keep, best)
            remove_result(self.place)
            folder = self.local / RESULT
            paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / FACTS]
            for path in (*paths, folder / FACTS):
                self._send_file(str(path.relative_to(self.local)))

    def forget(self) -> None:
        """Delete the copy of a finished run."""
        shutil.rmtree(self.local, ignore_errors=True)  # ranks of one node do it at once

    def _send_notes(self) -> None:
        """Send the notes that have grown."""
        for name in NOTES:
            path = self.local / name
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    status = file.stat()
                    now = (status.st_size, status.st_mtime_ns)
                    relative = str(file.relative_to(self.local))
                    if self._sent.get(relative) != now:
                        self._send_file(relative)
                        self._sent[relative] = now

    def _send_file(self, name: str) -> str:
        return files.copy(str(self.local / name), files.join(self.place, name))

    def _sweep(self, keep: int, best: int | None) -> None:
        """Delete torn checkpoints on S3, and all complete ones but the latest and the best."""
        spared = {*checkpoint.complete_steps(self.place)[-keep:], best}
        folder = files.join(self.place, checkpoint.CHECKPOINTS)
        names = {path.removeprefix(f"{folder}/").split("/")[0] for path in files.list_files(folder)}
        for name in sorted(filter(checkpoint.NAME.fullmatch, names)):
            if checkpoint.step_of(Path(name)) not in spared:
                files.remove(files.join(folder, name, checkpoint.COMPLETE))  # on S3, which has no links
                files.remove(files.join(folder, name))

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        """Turn an OSError inside the block into a refusal that names the run folder."""
        try:
            yield
        except OSError as error:
            raise UserError(f"{self.place}: {disk_errors.reason(error)}") from error
