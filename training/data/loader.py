"""Pairs for training: a label set applied to a staged store, and micro-batches cut from it."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from infra.base.errors import UserError
from pipelines.latents import store
from training.data.staging import Staged
from training.method.batch import Batch
from training.method.draws import Draw, draw
from training.method.order import batch_rows

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Staged pairs with a label set applied: the rows that it decides, and which slot won."""

    staged: Staged
    rows: npt.NDArray[np.int64]  # [m] rows of staged, in the order of their ids
    winners: npt.NDArray[np.int64]  # [m] 0 or 1
    preferred: npt.NDArray[np.float32]  # [m] P(the winner is preferred); 1 but for soft labels
    labels_hash: str


def apply_labels(staged: Staged, path: str, name: str, soft: bool = False) -> Labelled:
    """Apply a label set, with its probabilities where soft; ties and pairs it does not know are left out.

    Raises:
        UserError: if it decides no pair.
    """
    table, labels_hash = store.read_labels(path, name)
    order = np.argsort(table["pair_id"].to_numpy())
    ids = table["pair_id"].to_numpy()[order]
    label = table["label_0"].to_numpy()[order]
    place = np.minimum(np.searchsorted(ids, staged.pair_ids), max(len(ids) - 1, 0))
    decided = (ids[place] == staged.pair_ids) & np.isin(label[place], (0.0, 1.0)) if len(ids) else np.zeros(0, bool)
    rows = np.flatnonzero(decided)
    if not len(rows):
        raise UserError(f"--labels {name}: decides none of the {len(staged.pair_ids)} pairs of {path}")
    winners = np.where(label[place][rows] == 1.0, 0, 1)
    preferred = np.ones(len(rows), np.float32)
    if soft:
        first = table["probability_0"].to_numpy()[order][place][rows]
        preferred = np.where(winners == 0, first, 1 - first).astype(np.float32)
    return Labelled(staged=staged, rows=rows, winners=winners, preferred=preferred, labels_hash=labels_hash)


def as_stored(staged: Staged) -> Labelled:
    """Take every pair without labels: slot 0 stands where winners do."""
    pairs = len(staged.pair_ids)
    return Labelled(
        staged=staged,
        rows=np.arange(pairs),
        winners=np.zeros(pairs, np.int64),
        preferred=np.ones(pairs, np.float32),
        labels_hash="",
    )


def assemble(
    data: Labelled,
    rows: npt.NDArray[np.int64],
    seed: int,
    epoch: int,
    timestep: Callable[[float], int],
    dropout: float,
) -> Batch:
    """Gather rows of a label set and make their draws.

    Args:
        rows: [B] positions in data.rows.
        timestep: the backbone's map from a uniform number to a timestep.
        dropout: probability that a caption gives way to the empty one.
    """
    staged = data.staged
    manifest = staged.manifest
    chosen = data.rows[rows]
    moments = manifest.posterior == "moments"
    draws = [
        draw(seed, epoch, int(pair), manifest.latent_shape, timestep, dropout, moments)
        for pair in staged.pair_ids[chosen]
    ]
    latents = np.stack(
        [
            _pair_latents(staged, row, winner, drawn)
            for row, winner, drawn in zip(chosen, data.winners[rows], draws, strict=True)
        ],
        axis=1,
    )
    captions = [
        staged.empty_prompt if drawn.drop_caption else staged.prompt_rows[row]
        for row, drawn in zip(chosen, draws, strict=True)
    ]
    return Batch(
        pair_ids=staged.pair_ids[chosen],
        # torch widens float16 (exactly) fifteen times as fast as numpy
        latents=torch.from_numpy(latents).float(),
        noise=torch.from_numpy(np.stack([drawn.noise for drawn in draws])),
        timesteps=torch.tensor([drawn.timestep for drawn in draws]),
        conditioning={name: torch.from_numpy(rows[captions]).float() for name, rows in staged.prompts.items()},
        preferred=torch.from_numpy(data.preferred[rows]),
        reference_errors=_cached_errors(staged, chosen, data.winners[rows], epoch),
    )


def _pair_latents(staged: Staged, row: int, winner: int, drawn: Draw) -> npt.NDArray[np.float16 | np.float32]:
    """Return a pair's latents [2, C, H, W], the winner's first: as stored, or float32 where they are sampled here."""
    mirrored = 2 if staged.manifest.flip and drawn.flip else 0
    slots: npt.NDArray[np.float16 | np.float32] = staged.latents[row, mirrored : mirrored + 2]
    if staged.manifest.posterior == "moments":
        mean, std = np.split(slots.astype(np.float32), 2, axis=1)
        slots = mean + std * drawn.posterior
    return slots[[winner, 1 - winner]]


def _cached_errors(
    staged: Staged, chosen: npt.NDArray[np.int64], winners: npt.NDArray[np.int64], epoch: int
) -> torch.Tensor | None:
    if staged.reference_errors is None:
        return None
    order = np.stack([winners, 1 - winners], axis=1)
    slots = staged.reference_errors[chosen, epoch]
    return torch.from_numpy(np.take_along_axis(slots, order, axis=1).T.copy())


@dataclass(frozen=True)
class Share:
    """Which part of every global batch a rank takes, and in which pieces.

    Every rank has equally many pieces, each of micro_batch pairs where the world size divides the global batch, of at
    most so many where it does not: ranks that compute together need equally many passes.
    """

    global_batch: int
    micro_batch: int
    rank: int = 0
    world_size: int = 1

    @property
    def pieces(self) -> list[range]:
        """Return the positions in the global batch of each of this rank's micro-batches."""
        parts = _cut(self.global_batch, self.world_size)
        mine = parts[self.rank]
        longest = len(parts[0])
        return [mine[piece.start : piece.stop] for piece in _cut(len(mine), -(-longest // self.micro_batch))]


def _cut(length: int, parts: int) -> list[range]:
    """Cut 0..length-1 into consecutive parts of equal length, the first ones longer by one where it does not divide."""
    size, longer = divmod(length, parts)
    starts = [part * size + min(part, longer) for part in range(parts + 1)]
    return [range(start, stop) for start, stop in itertools.pairwise(starts)]


def step_batches(
    data: Labelled, step: int, share: Share, seed: int, timestep: Callable[[float], int], dropout: float
) -> list[Batch]:
    """Assemble one rank's micro-batches of one step: a pure function of its arguments."""
    epoch, rows = batch_rows(step, len(data.rows), share.global_batch, seed)
    return [assemble(data, rows[p.start : p.stop], seed, epoch, timestep, dropout) for p in share.pieces]


def prefetch(steps: range, make: Callable[[int], Item], depth: int = 2) -> Iterator[Item]:
    """Yield make(step) for each step in order, computed up to depth steps ahead on a thread of its own."""
    ready: queue.Queue[Item | BaseException] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def work() -> None:
        for step in steps:
            try:
                item: Item | BaseException = make(step)
            except BaseException as error:  # handed to the consumer, who raises it
                item = error
            while not stopped.is_set():
                try:
                    ready.put(item, timeout=1.0)
                    break
                except queue.Full:
                    continue
            if stopped.is_set() or isinstance(item, BaseException):
                return

    threading.Thread(target=work, daemon=True).start()
    try:
        for _ in steps:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
