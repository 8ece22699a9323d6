"""Flag images: `python pipelines/flag_images.py --images runs/a runs/b --safety-checker published`, on Ray Data.

Beside each folder's images it writes flags.json. Reports and the arena show the flagged images blurred, and say so.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from infra.base import files, object_storage, tables
from infra.base.errors import UserError, check_least
from pipelines.drawing.image_sets import DONE, image_ids, read_images
from pipelines.engine import on_ray
from pipelines.engine.jobs import Job, Step
from pipelines.judging.image_flags import FLAGS, flags_identity, read_image_flags
from pipelines.latents import store
from pipelines.latents.safety import Filter, SafetyConfig, concept_reason, make_filter
from pipelines.raw.decode import open_image

WORK = f"{store.WORK}-flags"  # not score.py's, where a killed pass may wait to go on


@dataclass(frozen=True)
class FlagConfig:
    """Flags of the command."""

    images: tuple[str, ...]
    """Folders that generate.py wrote."""
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    batch_size: int = 64
    """Images that are checked at once."""


class FlagImages:
    """Step: captions and images to the reason why each is flagged, or null. A caption's reason comes first."""

    def __init__(self, chosen: Filter, batch_size: int) -> None:
        self.blocklist, self.checker = chosen.blocklist, chosen.load_checker(batch_size)

    def __call__(self, drawn: pa.Table) -> pa.Table:
        """Return image_id and reason."""
        captions, contents = drawn["caption"].to_pylist(), drawn["image"].to_pylist()
        reasons = [self.blocklist.reason(caption) if self.blocklist else None for caption in captions]
        left = [row for row, reason in enumerate(reasons) if reason is None]
        if self.checker and left:
            concepts = self.checker.concepts([open_image(contents[row]) for row in left])
            for row, concept in zip(left, concepts, strict=True):
                reasons[row] = None if concept is None else concept_reason(concept)
        return pa.table({"image_id": drawn["image_id"], "reason": pa.array(reasons, pa.string())})


def main(config: FlagConfig) -> None:
    """Say which images of folders a word list or the safety checker flags; nothing is deleted or changed."""
    chosen = make_filter(config.safety)
    if not chosen.identity:
        raise UserError("--prompt-blocklist and --safety-checker: give at least one")
    check_least(config, {"batch_size": 1})
    folders = [files.resolve(path) for path in config.images]
    for path in folders:
        read_images(path, columns=["image_id"])  # refused here where it is unfinished, not after the others
    for path in folders:
        done = flag_folder(config, path, chosen)
        found = read_image_flags(path)
        assert found is not None
        told = "".join(f"\n  {reason}  {count:,}" for reason, count in found.counts().items())
        nothing = "" if done else "already flagged, nothing to do: "
        print(f"{path}: {nothing}{len(found.reasons):,} of {found.images:,} images flagged{told}", flush=True)


def flag_folder(config: FlagConfig, path: str, chosen: Filter) -> bool:
    """Flag a folder's images in one resumable pass; say whether that was still to do."""
    identity = flags_identity(path, chosen.identity)
    target = files.join(path, FLAGS)

    def flagged_so() -> bool:
        return files.exists(target) and files.read_json(target)["identity"] == identity

    if flagged_so():  # nor is there anything to lock, where one may only read
        return False
    object_storage.check("--images", path)
    with store.writer_lock(path) as still_held:
        if flagged_so():
            return False
        work = files.join(path, WORK)
        begun = files.join(work, "config.json")
        if not files.exists(begun) or files.read_json(begun) != identity:
            files.remove(work)  # of a pass of another filter
            files.write_json(begun, identity)
        _run_pass(config, path, chosen)
        table = tables.read_folder(files.join(work, "reasons")).sort_by("image_id")
        if table["image_id"] != read_images(path, columns=["image_id"])["image_id"]:
            raise UserError(f"{path}: {table.num_rows} images checked; they changed meanwhile: run again")
        flagged = table.filter(pc.is_valid(table["reason"]))
        told = dict(zip(map(str, flagged["image_id"].to_pylist()), flagged["reason"].to_pylist(), strict=True))
        about = {"identity": identity, "config": asdict(config), "images": table.num_rows, "flagged": told}
        still_held()
        files.write_json(target, about)
        files.remove(work)
    return True


def _run_pass(config: FlagConfig, path: str, chosen: Filter) -> None:
    on_ray.connect()
    work, gpus = files.join(path, WORK), on_ray.device_count() if chosen.checker else 0
    step = {"chosen": chosen, "batch_size": config.batch_size}
    on_ray.run(
        Job(
            source=files.list_files(files.join(path, "images"), ".parquet"),
            columns=["image_id", "caption", "image"],
            steps=[Step(FlagImages, step, config.batch_size, max(1, gpus), gpus=1.0 if gpus else 0.0)],
            output=files.join(work, "reasons"),
            checkpoint=files.join(work, "done"),
            id_column="image_id",
            row_ids=image_ids,
            rows_per_block=4 * config.batch_size,
            name="images checked",
            rows=int(files.read_json(files.join(path, DONE))["images"]),
        )
    )
