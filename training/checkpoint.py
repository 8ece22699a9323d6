"""Checkpoints: weights and optimizer state in safetensors, marked complete last, so that a torn one is never taken."""

from __future__ import annotations

import shutil
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


def save(output: Path, state: State, network: torch.nn.Module, optimizer: torch.optim.AdamW) -> Path:
    """Write a checkpoint; the file that says it is complete comes last and holds the others' hashes."""
    folder = folder_of(output, state.step)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()},
        folder / "network.safetensors",
    )
    save_file(_optimizer_tensors(network, optimizer), folder / "optimizer.safetensors")
    hashes = {path.name: files.sha256(str(path)) for path in sorted(folder.iterdir())}
    files.write_json(str(folder / COMPLETE), {"state": asdict(state), "sha256": hashes})
    return folder


def _optimizer_tensors(network: torch.nn.Module, optimizer: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}/{name}"] = value.detach().cpu().clone()
    return tensors


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


def load_network(folder: Path, network: torch.nn.Module) -> None:
    """Load a checkpoint's weights, bit for bit."""
    network.load_state_dict(load_file(folder / "network.safetensors"))


def load_optimizer(folder: Path, network: torch.nn.Module, optimizer: torch.optim.AdamW) -> None:
    """Load a checkpoint's optimizer state, bit for bit; torch puts each tensor where this optimizer wants it."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    places = {name: place for place, (name, _) in enumerate(network.named_parameters())}
    for key, value in load_file(folder / "optimizer.safetensors").items():
        kind, name = key.split("/", 1)
        state.setdefault(places[name], {})[kind] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def sweep(output: Path, keep: int, best: int | None) -> None:
    """Delete incomplete checkpoints, and complete ones but the latest few and the best."""
    done = complete(output)
    spared = {path.name for path in done[-keep:]} | ({folder_of(output, best).name} if best is not None else set())
    for path in (output / "checkpoints").glob("step-*"):
        if path.name not in spared:
            shutil.rmtree(path)
