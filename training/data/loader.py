"""Pairs for training: a label set applied to a store, and micro-batches cut from it."""

from __future__ import annotations

import collections
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from infra.base import tables
from infra.base.errors import UserError
from pipelines.latents import store
from training.data.stored import StoredPairs
from training.method.batch import Batch
from training.method.draws import Draw, draw
from training.method.order import batch_rows

Item = TypeVar("Item")
UNDECIDED = 2  # beside 0 and 1 for the winner's slot
PAIRS_AHEAD = 64  # that are asked of S3 before they are needed: at 77 pairs/s the answers may take 0.8 s


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A store's pairs with a label set applied: the rows that it decides, and which slot won."""

    pairs: StoredPairs
    rows: npt.NDArray[np.uint32]  # [m] rows of pairs, in the order of their ids
    winners: npt.NDArray[np.uint8]  # [m] 0 or 1
    preferred: npt.NDArray[np.float32] | None  # [m] P(the winner is preferred); None: 1, as but for soft labels
    labels_hash: str


def apply_labels(pairs: StoredPairs, path: str, name: str, soft: bool = False) -> Labelled:
    """Apply a label set, with its probabilities where soft; ties and pairs it does not know are left out.

    A label set is read piece by piece: of a pair no more is held than what Labelled says.

    Raises:
        UserError: if it decides no pair.
    """
    file, labels_hash = store.find_labels(path, name)
    count = len(pairs.pair_ids)
    winners = np.full(count, UNDECIDED, np.uint8)
    preferred = np.ones(count, np.float32) if soft else None
    for batch in tables.batches(file, ["pair_id", "label_0", *(["probability_0"] if soft else [])]):
        label = batch["label_0"].to_numpy(zero_copy_only=False)  # a null is NaN
        places, known = _places(pairs.pair_ids, batch["pair_id"].to_numpy())
        known &= (label == 0.0) | (label == 1.0)
        winners[places[known]] = np.where(label[known] == 1.0, 0, 1)
        if preferred is not None:
            first = batch["probability_0"].to_numpy(zero_copy_only=False)[known]
            preferred[places[known]] = np.where(label[known] == 1.0, first, 1 - first)
    rows = np.flatnonzero(winners != UNDECIDED).astype(np.uint32)
    if not len(rows):
        raise UserError(f"--labels {name}: decides none of the {count} pairs of {path}")
    if len(rows) < count:
        winners = winners[rows]
        preferred = None if preferred is None else preferred[rows]
    return Labelled(pairs=pairs, rows=rows, winners=winners, preferred=preferred, labels_hash=labels_hash)


def _places(
    known: npt.NDArray[np.int64], ids: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Find ids among the known ones, which ascend: the place of each, and whether it is there."""
    begin = int(np.searchsorted(known, ids[0]))
    if np.array_equal(known[begin : begin + len(ids)], ids):  # the usual case: each pair has a label
        return np.arange(begin, begin + len(ids)), np.ones(len(ids), bool)
    places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return places, known[places] == ids


def as_stored(pairs: StoredPairs) -> Labelled:
    """Take every pair without labels: slot 0 stands where winners do."""
    count = len(pairs.pair_ids)
    return Labelled(
        pairs=pairs,
        rows=np.arange(count, dtype=np.uint32),
        winners=np.zeros(count, np.uint8),
        preferred=None,
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
    """Gather rows of a label set and make their draws; see begin."""
    return begin(data, rows, seed, epoch, timestep, dropout)()


def begin(
    data: Labelled,
    rows: npt.NDArray[np.int64],
    seed: int,
    epoch: int,
    timestep: Callable[[float], int],
    dropout: float,
) -> Callable[[], Batch]:
    """Make the draws of some rows and begin to read these; what is returned waits for them.

    Args:
        rows: [B] positions in data.rows.
        timestep: the backbone's map from a uniform number to a timestep.
        dropout: probability that a caption gives way to the empty one.
    """
    pairs = data.pairs
    chosen = data.rows[rows].astype(np.int64)
    latents = pairs.latents.begin(chosen)
    manifest = pairs.manifest
    moments = manifest.posterior == "moments"
    ids = pairs.pair_ids[chosen]
    draws = [
        draw(seed, epoch, int(key), manifest.latent_shape, timestep, dropout, moments and pairs.groups is None)
        for key in pairs.draw_keys[chosen]
    ]
    if moments and pairs.groups is not None:
        draws = pairs.groups.with_posteriors(draws, chosen, seed, epoch, manifest.latent_shape)
    dropped = np.array([drawn.drop_caption for drawn in draws])
    wanted = np.where(dropped, pairs.empty_prompt, pairs.prompt_rows[chosen])
    captions, places = np.unique(wanted, return_inverse=True)  # each is read once
    prompts = pairs.prompts.begin(captions.astype(np.int64))
    winners = data.winners[rows]

    def finish() -> Batch:
        return Batch(
            pair_ids=ids,
            # torch widens float16 (exactly) fifteen times as fast as numpy
            latents=torch.from_numpy(_pair_latents(manifest, latents(), winners, draws)).float(),
            noise=torch.from_numpy(np.stack([drawn.noise for drawn in draws])),
            timesteps=torch.tensor([drawn.timestep for drawn in draws]),
            conditioning={name: torch.from_numpy(values[places]).float() for name, values in prompts().items()},
            preferred=torch.ones(len(rows)) if data.preferred is None else torch.from_numpy(data.preferred[rows]),
            reference_errors=_cached_errors(pairs, chosen, winners, epoch),
        )

    return finish


def _pair_latents(
    manifest: store.Manifest, columns: Mapping[str, store.Values], winners: npt.NDArray[np.uint8], draws: Sequence[Draw]
) -> store.Values:
    """Return pairs' latents [2, B, C, H, W], winners first: as stored, or float32 where they are sampled here."""
    slots = list(columns.values())
    pairs: list[store.Values] = []
    for place, (winner, drawn) in enumerate(zip(winners.tolist(), draws, strict=True)):
        mirrored = 2 if manifest.flip and drawn.flip else 0
        pair: store.Values = np.stack([slots[mirrored + slot][place] for slot in (0, 1)])
        if manifest.posterior == "moments":
            mean, std = np.split(pair.astype(np.float32), 2, axis=1)
            pair = mean + std * drawn.posterior
        pairs.append(pair[[winner, 1 - winner]])
    return np.stack(pairs, axis=1)


def _cached_errors(
    pairs: StoredPairs, chosen: npt.NDArray[np.int64], winners: npt.NDArray[np.uint8], epoch: int
) -> torch.Tensor | None:
    if pairs.reference_errors is None:
        return None
    order = np.stack([winners, 1 - winners], axis=1).astype(np.int64)
    slots = pairs.reference_errors.of(chosen, epoch)
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
    return begin_step(data, step, share, seed, timestep, dropout)()


def begin_step(
    data: Labelled, step: int, share: Share, seed: int, timestep: Callable[[float], int], dropout: float
) -> Callable[[], list[Batch]]:
    """Begin to read one rank's micro-batches of one step; what is returned waits for them."""
    epoch, rows = batch_rows(step, len(data.rows), share.global_batch, seed)
    begun = [begin(data, rows[p.start : p.stop], seed, epoch, timestep, dropout) for p in share.pieces]
    return lambda: [finish() for finish in begun]


def steps_ahead(data: Labelled, share: Share) -> int:
    """Say how many steps to begin before the one that is waited for: none where rows lie on a disk."""
    pairs = sum(len(piece) for piece in share.pieces)
    return -(-PAIRS_AHEAD // max(1, pairs)) if data.pairs.latents.far else 0


def read_ahead(steps: Iterable[int], begin: Callable[[int], Callable[[], Item]], ahead: int) -> Iterator[Item]:
    """Yield what begin(step) returns for each step in order, when `ahead` further steps were begun."""
    begun: collections.deque[Callable[[], Item]] = collections.deque()
    for step in steps:
        begun.append(begin(step))
        if len(begun) > ahead:
            yield begun.popleft()()
    for finish in begun:
        yield finish()


def prefetch(items: Iterable[Item], depth: int = 2) -> Iterator[Item]:
    """Yield items in order, made up to depth ahead on a thread of its own."""
    ready: queue.Queue[Item | BaseException | None] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: Item | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=1.0)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:  # handed to the consumer, who raises it
            put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            item = ready.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
