"""Checkpoints: groups of tensors in safetensors, marked complete last, so that a torn one is never taken.

A checkpoint is a folder checkpoints/step-NNNNNNN of a run folder: one file a group, and complete.json, its marker.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from infra.base import files, json_text, records
from infra.base.errors import UserError
from infra.base.versions import check_version

if TYPE_CHECKING:
    import torch

CHECKPOINTS = "checkpoints"
COMPLETE = "complete.json"
NAME = re.compile(r"step-\d{7,}")  # of a checkpoint's folder; any other name there is somebody else's
REWIND = "rewind.json"  # of a run folder, while --resume-from is asked for: the step to go on from
SCHEMA_VERSION = 1
Groups = Mapping[str, Mapping[str, "torch.Tensor"]]  # tensors by name, by the part that they belong to


@dataclass(frozen=True, kw_only=True)
class State:
    """All that a resumed run needs beside weights and optimizer: order and draws are functions of it."""

    step: int
    seed: int
    global_batch: int
    store_hash: str
    labels_hash: str


def name_of(step: int) -> str:
    """Name the checkpoint after so many steps, from the run folder on."""
    return f"{CHECKPOINTS}/step-{step:07d}"


def folder_of(output: Path, step: int) -> Path:
    """Return the folder of the checkpoint after so many steps."""
    return output / name_of(step)


def step_of(folder: Path) -> int:
    """Read the step from a checkpoint's name."""
    return int(folder.name.removeprefix("step-"))


def copied(groups: Groups) -> Groups:
    """Copy tensors into CPU memory, so that they can be written while training changes its own."""
    return {
        group: {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
        for group, tensors in groups.items()
    }


def save(output: Path, state: State, groups: Groups) -> None:
    """Write a checkpoint, one file a group; the file that says it is complete comes last and holds the hashes."""
    from safetensors.torch import save_file  # which loads torch, and most only look which checkpoints there are

    folder = begin(output, state.step)
    for name, tensors in groups.items():
        path = folder / f"{name}.safetensors"
        save_file(dict(tensors), path)
        files.flush(str(path))
    mark(folder, state, {path.name: files.sha256(str(path)) for path in sorted(folder.iterdir())})


def begin(output: Path, step: int) -> Path:
    """Make the empty folder of a checkpoint; what an earlier attempt left there goes."""
    folder = folder_of(output, step)
    drop(folder)
    folder.mkdir(parents=True)
    return folder


def mark(folder: Path, state: State, hashes: dict[str, str]) -> None:
    """Mark a checkpoint complete, with the hashes of its files by their paths in its folder.

    The files are flushed already; here their names are, before the marker vouches for them.
    """
    marker = {"schema_version": SCHEMA_VERSION, "state": asdict(state), "sha256": hashes}
    for place in (folder.parent.parent, folder.parent, folder):
        files.flush(str(place))
    files.write_json(str(folder / COMPLETE), marker)


def complete_steps(output: str) -> list[int]:
    """List the steps of the complete checkpoints in a run folder, local or on S3, the first step first.

    A folder of another name, for example a copy `step-0000004.bak`, is no checkpoint.
    """
    folder = files.join(output, CHECKPOINTS)
    markers = files.list_files(folder, f"/{COMPLETE}")
    names = [path.removeprefix(f"{folder}/").removesuffix(f"/{COMPLETE}") for path in markers]
    return sorted(step_of(Path(name)) for name in names if NAME.fullmatch(name))


def complete(output: Path) -> list[Path]:
    """List the complete checkpoints on disk, oldest first."""
    return [folder_of(output, step) for step in complete_steps(str(output))]


def read_marker(folder: str, content: bytes) -> tuple[State, dict[str, str]]:
    """Read a marker: the state, and the hashes of the checkpoint's files by their paths, not yet compared.

    Args:
        folder: the checkpoint's, local or on S3.
        content: the marker's bytes.

    Raises:
        UserError: naming the marker, if it is of another schema version or not whole.
    """
    path = files.join(folder, COMPLETE)
    otherwise = f"delete {folder} to resume from the one before"
    try:
        marker = dict(json_text.parse(content))
        check_version(path, marker, SCHEMA_VERSION, otherwise, unnamed=1)
        state = State(**marker["state"])
        hashes = dict(marker["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a whole marker that this code wrote ({error!r}); {otherwise}") from error
    own = name_of(state.step).rpartition("/")[2]
    if Path(folder).name != own:
        raise UserError(
            f"{path}: of step {state.step}, in a folder of another name; rename it to {own}, or {otherwise}"
        )
    return state, hashes


def read_state(folder: Path) -> State:
    """Read a complete checkpoint's state and check its files.

    Raises:
        UserError: naming the file that is missing, altered or outside the folder, or the marker, if it is not whole or
            of other code.
    """
    return check(str(folder))


def check(folder: str) -> State:
    """Read the state of a complete checkpoint, local or on S3, and compare each of its files with its hash.

    Raises:
        UserError: as read_state does.
    """
    state, hashes = read_marker(folder, files.read_bytes(files.join(folder, COMPLETE)))
    for name, expected in hashes.items():
        path = files.inside(folder, name)
        if not files.is_file(path):
            raise UserError(f"{path}: missing; delete {folder} to resume from the one before")
        if files.sha256(path) != expected:
            raise UserError(f"{path}: altered since it was written; delete {folder} to resume from the one before")
    return state


def sweep(output: Path, keep: int, best: int | None) -> None:
    """Delete incomplete checkpoints, and all complete ones but the latest and the best.

    What has another name than a checkpoint stays, and so does what a link leads to.

    Args:
        keep: how many of the latest stay, 1 or more.
        best: step of the best; None where none was judged.
    """
    spared = {path.name for path in complete(output)[-keep:]}
    if best is not None:
        spared.add(folder_of(output, best).name)
    for path in (output / CHECKPOINTS).glob("step-*"):
        if NAME.fullmatch(path.name) and path.name not in spared:
            drop(path)


def drop(folder: Path) -> None:
    """Delete a checkpoint's folder; where it is a link, the link alone.

    Raises:
        UserError: if the folder of all checkpoints is a link, behind which may lie another run's.
    """
    files.remove(str(folder), below=str(folder.parent.parent))


def ask_to_rewind(output: str, step: int) -> None:
    """Note that the workers shall go on from the checkpoint after a step. Nothing is deleted before they hold it.

    Args:
        output: the run folder, local or on S3.

    Raises:
        UserError: if there is no complete checkpoint of that step, or a file of it is missing or altered.
    """
    steps = complete_steps(output)
    if step not in steps:
        raise UserError(f"--resume-from {step}: {output} has complete checkpoints of steps {steps or 'none'}")
    check(files.join(output, name_of(step)))
    files.write_json(files.join(output, REWIND), {"step": step})


def forget_request(output: str) -> None:
    """Take back what ask_to_rewind noted: the run goes on from its latest checkpoint."""
    files.remove(files.join(output, REWIND))


def is_asked_to_rewind(output: str) -> bool:
    """Say whether a run shall go on from an earlier checkpoint than its latest, and has not yet."""
    return files.is_file(files.join(output, REWIND))


def next_start(output: str) -> int | None:
    """Return the step to go on from: the one asked for, else that of the latest complete checkpoint; None without."""
    if is_asked_to_rewind(output):
        request = files.join(output, REWIND)
        return int(records.read_record(request, ("step",), "delete it, or give --resume-from again")["step"])
    return max(complete_steps(output), default=None)


def rewind(output: str, step: int) -> None:
    """Make the checkpoint after a step the latest: later ones lose their markers, and go at the next sweep.

    The last goes first, so that a kill in the middle leaves a run that was stopped earlier, with no gap in it.

    Args:
        output: the run folder, local or on S3.
    """
    for later in reversed(complete_steps(output)):
        if later > step:
            files.remove(files.join(output, name_of(later), COMPLETE), output)
