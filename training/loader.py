"""Pairs for training: the store staged once per node as memory-mapped arrays, and micro-batches cut from them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import queue
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch

from infra import files
from infra.errors import UserError
from pipelines import pairs, store
from training.draws import Draw, draw
from training.order import batch_rows


@dataclass(frozen=True)
class Staged:
    """A store's kept pairs in the order of their ids, as arrays on local disk."""

    manifest: store.Manifest
    pair_ids: npt.NDArray[np.int64]  # [n], ascending
    prompt_rows: npt.NDArray[np.int64]  # [n], row of each pair's caption in prompts
    latents: npt.NDArray[np.float16]  # [n, slots, C or 2C, H, W], memory-mapped; slots 0, 1 and, flipped, 2, 3
    prompts: npt.NDArray[np.float16]  # [captions, L, D], memory-mapped
    empty_prompt: int  # row of the empty caption in prompts


def stage(path: str, cache: str | None = None) -> Staged:
    """Copy a store's arrays to local disk once, and map them.

    Parquet is the record; random rows come from these copies, because Parquet gives hundreds of rows a second and a
    memory map tens of thousands. The folder is named by the store's content, so it is never stale.

    Raises:
        UserError: if the store is unfinished or a file differs from the manifest's hash.
    """
    manifest = store.read_manifest(path)
    base = Path(cache) if cache else Path(tempfile.gettempdir()) / f"diffusion-dpo-{os.getuid()}"
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = base / manifest.content_hash
    with open(base / f"{manifest.content_hash}.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # one process per node copies, the others wait
        if not (folder / "complete").exists():
            store.verify(path, manifest, contents=True)
            folder.mkdir(exist_ok=True)
            _stage_prompts(path, folder, manifest)
            _stage_pairs(path, folder, manifest)
            (folder / "complete").touch()
    prompt_ids = np.load(folder / "prompt_ids.npy")
    return Staged(
        manifest=manifest,
        pair_ids=np.load(folder / "pair_ids.npy"),
        prompt_rows=np.load(folder / "prompt_rows.npy"),
        latents=np.load(folder / "latents.npy", mmap_mode="r"),
        prompts=np.load(folder / "prompts.npy", mmap_mode="r"),
        empty_prompt=int(np.searchsorted(prompt_ids, pairs.prompt_id(""))),
    )


def _tables(path: str, part: str, columns: list[str]) -> Iterator[store.pa.Table]:
    for name in files.list_files(files.join(path, part), ".parquet"):
        filesystem, inner = files.open_filesystem(name)
        yield pq.read_table(inner, filesystem=filesystem, columns=columns, partitioning=None)


def _stage_prompts(path: str, folder: Path, manifest: store.Manifest) -> None:
    tables = list(_tables(path, "prompts", ["prompt_id", "text_encoder"]))
    ids = np.concatenate([table["prompt_id"].to_numpy() for table in tables])
    values = np.concatenate([store.half_rows(table["text_encoder"]) for table in tables])
    order = np.argsort(ids)
    np.save(folder / "prompt_ids.npy", ids[order])
    np.save(folder / "prompts.npy", values[order].reshape(-1, *manifest.embeddings["text_encoder"]))


def _stage_pairs(path: str, folder: Path, manifest: store.Manifest) -> None:
    kept = "pairs/status=kept"
    ids = np.concatenate([table["pair_id"].to_numpy() for table in _tables(path, kept, ["pair_id"])])
    rank = np.empty(len(ids), np.int64)
    rank[np.argsort(ids)] = np.arange(len(ids))
    prompt_ids, prompt_rows = np.load(folder / "prompt_ids.npy"), np.empty(len(ids), np.int64)
    channels, height, width = manifest.latent_shape
    columns = list(store.latent_columns(manifest.flip))
    shape = (len(columns), channels * (2 if manifest.posterior == "moments" else 1), height, width)
    latents = np.lib.format.open_memmap(folder / "latents.npy", mode="w+", dtype=np.float16, shape=(len(ids), *shape))
    start = 0
    for table in _tables(path, kept, ["prompt_id", *columns]):
        rows = rank[start : start + table.num_rows]
        stacked = np.stack([store.half_rows(table[name]) for name in columns], axis=1)
        latents[rows] = stacked.reshape(-1, *shape)
        prompt_rows[rows] = np.searchsorted(prompt_ids, table["prompt_id"].to_numpy())
        start += table.num_rows
    latents.flush()
    np.save(folder / "pair_ids.npy", np.sort(ids))
    np.save(folder / "prompt_rows.npy", prompt_rows)


@dataclass(frozen=True)
class Labelled:
    """Staged pairs with a label set applied: the rows that it decides, and which slot won."""

    staged: Staged
    rows: npt.NDArray[np.int64]  # [m] rows of staged, in the order of their ids
    winners: npt.NDArray[np.int64]  # [m] 0 or 1
    labels_hash: str


def apply_labels(staged: Staged, path: str, name: str) -> Labelled:
    """Apply a label set; ties and pairs it does not know are left out.

    Raises:
        UserError: if it decides no pair.
    """
    table, labels_hash = store.read_labels(path, name)
    order = np.argsort(table["pair_id"].to_numpy())
    ids, label = table["pair_id"].to_numpy()[order], table["label_0"].to_numpy()[order]
    place = np.minimum(np.searchsorted(ids, staged.pair_ids), max(len(ids) - 1, 0))
    decided = (ids[place] == staged.pair_ids) & np.isin(label[place], (0.0, 1.0)) if len(ids) else np.zeros(0, bool)
    rows = np.flatnonzero(decided)
    if not len(rows):
        raise UserError(f"--labels {name}: decides none of the {len(staged.pair_ids)} pairs of {path}")
    return Labelled(staged, rows, np.where(label[place][rows] == 1.0, 0, 1), labels_hash)


@dataclass(frozen=True)
class Batch:
    """A micro-batch; row 0 of latents are the winners, row 1 the losers."""

    pair_ids: npt.NDArray[np.int64]  # [B]
    latents: torch.Tensor  # [2, B, C, H, W] float32
    noise: torch.Tensor  # [B, C, H, W] float32
    timesteps: torch.Tensor  # [B] int64
    conditioning: torch.Tensor  # [B, L, D] float32

    def to(self, device: torch.device) -> Batch:
        """Move the tensors to a device."""
        moved = {name: value.to(device, non_blocking=True) for name, value in vars(self).items() if name != "pair_ids"}
        return Batch(pair_ids=self.pair_ids, **moved)

    def fingerprint(self, position: int) -> int:
        """Hash (position in the global batch, pair, timestep, noise) of each row and add up, modulo 2^64."""
        total = 0
        for index, pair_id in enumerate(self.pair_ids):
            told = f"{position + index}/{pair_id}/{int(self.timesteps[index])}/".encode()
            digest = hashlib.blake2b(told + self.noise[index].numpy().tobytes(), digest_size=8).digest()
            total += int.from_bytes(digest, "little")
        return total % (1 << 64)


def assemble(
    data: Labelled, rows: npt.NDArray[np.int64], seed: int, epoch: int, timesteps: int, dropout: float
) -> Batch:
    """Gather rows of a label set and make their draws.

    Args:
        rows: [B] positions in data.rows.
        dropout: probability that a caption gives way to the empty one.
    """
    staged, manifest = data.staged, data.staged.manifest
    chosen = data.rows[rows]
    moments = manifest.posterior == "moments"
    visits = [
        draw(seed, epoch, int(pair), manifest.latent_shape, timesteps, dropout, moments)
        for pair in staged.pair_ids[chosen]
    ]
    latents = np.stack(
        [
            _pair_latents(staged, row, winner, visit)
            for row, winner, visit in zip(chosen, data.winners[rows], visits, strict=True)
        ],
        axis=1,
    )
    captions = [
        staged.empty_prompt if v.drop_caption else staged.prompt_rows[r] for r, v in zip(chosen, visits, strict=True)
    ]
    return Batch(
        pair_ids=staged.pair_ids[chosen],
        latents=torch.from_numpy(latents),
        noise=torch.from_numpy(np.stack([visit.noise for visit in visits])),
        timesteps=torch.tensor([visit.timestep for visit in visits]),
        conditioning=torch.from_numpy(staged.prompts[captions].astype(np.float32)),
    )


def _pair_latents(staged: Staged, row: int, winner: int, visit: Draw) -> npt.NDArray[np.float32]:
    mirrored = 2 if staged.manifest.flip and visit.flip else 0
    slots = staged.latents[row, mirrored : mirrored + 2].astype(np.float32)
    if staged.manifest.posterior == "moments":
        mean, std = np.split(slots, 2, axis=1)
        slots = mean + std * visit.posterior
    return slots[[winner, 1 - winner]]


@dataclass(frozen=True)
class Share:
    """Which part of every global batch a rank takes, and in which pieces."""

    global_batch: int
    micro_batch: int
    rank: int = 0
    world_size: int = 1

    @property
    def offset(self) -> int:
        """Return the position in the global batch where this rank's part begins."""
        return self.rank * (self.global_batch // self.world_size)

    @property
    def micro_batches(self) -> int:
        """Return the number of pieces per step."""
        return self.global_batch // self.world_size // self.micro_batch


def step_batches(data: Labelled, step: int, share: Share, seed: int, timesteps: int, dropout: float) -> list[Batch]:
    """Assemble one rank's micro-batches of one step: a pure function of its arguments."""
    epoch, rows = batch_rows(step, len(data.rows), share.global_batch, seed)
    starts = range(share.offset, share.offset + share.micro_batches * share.micro_batch, share.micro_batch)
    return [assemble(data, rows[s : s + share.micro_batch], seed, epoch, timesteps, dropout) for s in starts]


def prefetch(steps: range, make: object, depth: int = 2) -> Iterator[list[Batch]]:
    """Yield make(step) for each step in order, computed up to depth steps ahead on a thread of its own."""
    assert callable(make)
    ready: queue.Queue[list[Batch] | BaseException] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def work() -> None:
        for step in steps:
            try:
                item: list[Batch] | BaseException = make(step)
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
