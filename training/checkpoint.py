"""Checkpoints: groups of tensors in safetensors, marked complete last, so that a torn one is never taken."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from infra import files
from infra.errors import UserError

COMPLETE = "complete.json"


@dataclass(frozen=True)
class State:
    """All that a resumed run needs beside weights and optimizer: order and draws are functions of it."""

    step: int
    seed: int
    global_batch: int
    store_hash: str
    labels_hash: str


def folder_of(output: Path, step: int) -> Path:
    """Name the checkpoint after so many steps."""
    return output / "checkpoints" / f"step-{step:07d}"


def step_of(folder: Path) -> int:
    """Read the step from a checkpoint's name."""
    return int(folder.name.removeprefix("step-"))


def save(output: Path, state: State, groups: Mapping[str, Mapping[str, torch.Tensor]]) -> Path:
    """Write named groups of tensors, a file each; the one that says it is complete comes last and holds their hashes.

    Returns:
        the checkpoint's folder.
    """
    folder = folder_of(output, state.step)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for group, tensors in groups.items():
        save_file({name: _own(value) for name, value in tensors.items()}, _file(folder, group))
    hashes = {path.name: files.sha256(str(path)) for path in sorted(folder.iterdir())}
    files.write_json(str(folder / COMPLETE), {"state": asdict(state), "sha256": hashes})
    return folder


def load(folder: Path, group: str) -> dict[str, torch.Tensor]:
    """Read one group of a checkpoint's tensors, bit for bit."""
    return load_file(_file(folder, group))


def _own(value: torch.Tensor) -> torch.Tensor:
    """Copy to memory of its own: safetensors refuses tensors that share any, as 8-bit AdamW's tables do."""
    return value.detach().to("cpu", copy=True).contiguous()


def _file(folder: Path, group: str) -> Path:
    return folder / f"{group}.safetensors"


def complete(output: Path) -> list[Path]:
    """List the complete checkpoints, oldest first."""
    return sorted(path.parent for path in (output / "checkpoints").glob(f"step-*/{COMPLETE}"))


def read_state(folder: Path) -> State:
    """Read a complete checkpoint's state and check its files.

    Raises:
        UserError: naming the file that is missing or altered.
    """
    marker = files.read_json(str(folder / COMPLETE))
    for name, expected in marker["sha256"].items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing; delete {folder} to resume from the one before")
        if files.sha256(str(path)) != expected:
            raise UserError(f"{path}: altered since it was written; delete {folder} to resume from the one before")
    return State(**marker["state"])


def sweep(output: Path, keep: int, best: int | None) -> None:
    """Delete incomplete checkpoints, and complete ones but the latest few and the best."""
    done = complete(output)
    spared = {path.name for path in done[-keep:]} | ({folder_of(output, best).name} if best is not None else set())
    for path in (output / "checkpoints").glob("step-*"):
        if path.name not in spared:
            shutil.rmtree(path)
