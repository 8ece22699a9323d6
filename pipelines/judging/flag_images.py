"""Flag images: `python pipelines/flag_images.py --images runs/a runs/b --safety-checker published`, on Ray Data.

Beside each folder's images it writes flags.json and filter.json. Reports and the arena show the flagged images blurred,
and say so.
"""

from __future__ import annotations

from dataclasses import asdict

import pyarrow as pa
import pyarrow.compute as pc

from infra.base import files, object_storage, one_writer
from infra.base.errors import UserError, check_least
from pipelines.drawing import gallery
from pipelines.drawing.image_flags import are_flagged, flags_identity, read_image_flags, write_image_flags
from pipelines.drawing.image_sets import image_files, image_ids, read_images, read_manifest
from pipelines.engine import block_rows, choose, resumable, shares
from pipelines.engine.jobs import Job, Step
from pipelines.judging.flag_config import FlagConfig
from pipelines.latents import store
from pipelines.latents.safety import Filter, concept_reason, make_filter
from pipelines.raw.decode import open_image

WORK = f"{store.WORK}-flags"  # not score.py's, where a killed pass may wait to go on
REASONS = "reasons"  # folder of the rows of a pass, there
MARKS = "done"  # folder of the marks of finished blocks, there


class FlagImages:
    """Step: captions and images to the reason why each is flagged, or null. A caption's reason comes first."""

    def __init__(self, chosen: Filter, batch_size: int) -> None:
        self.blocklist = chosen.blocklist
        self.checker = chosen.load_checker(batch_size)

    def __call__(self, drawn: pa.Table) -> pa.Table:
        """Return image_id and reason."""
        captions = drawn["caption"].to_pylist()
        contents = drawn["image"].to_pylist()
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
        flags = read_image_flags(path)
        assert flags is not None
        reasons = "".join(f"\n  {reason}  {count:,}" for reason, count in flags.counts().items())
        nothing = "" if done else "already flagged, nothing to do: "
        print(f"{path}: {nothing}{len(flags.reasons):,} of {flags.images:,} images flagged{reasons}", flush=True)
        shown = gallery.show_as_flagged(path)
        if shown:
            print(shown, flush=True)
        if done and flags.reasons:
            print(f"reports made of {path} before still show its images as they are; make them again", flush=True)


def flag_folder(config: FlagConfig, path: str, chosen: Filter) -> bool:
    """Flag a folder's images in one resumable pass; say whether that was still to do."""
    identity = flags_identity(path, chosen.identity)

    def flagged_so() -> bool:
        return are_flagged(path, identity)

    if not flagged_so():  # else there is nothing to write, and the bucket may be one that can only be read
        object_storage.check("--images", path)

    def publish(table: pa.Table) -> None:
        flagged = table.filter(pc.is_valid(table["reason"]))
        reasons = dict(zip(map(str, flagged["image_id"].to_pylist()), flagged["reason"].to_pylist(), strict=True))
        about = {"identity": identity, "config": asdict(config), "images": table.num_rows, "flagged": reasons}
        write_image_flags(path, about)

    checked = resumable.finish(
        resumable.Pass(
            work=files.join(path, WORK),
            settings=identity,
            is_finished=flagged_so,
            lock=lambda: one_writer.writer_lock(path),
            prepare=choose.connect,
            run=lambda: choose.current().run(_job(config, path, chosen)),
            count=lambda: _read_rows(path),
            publish=publish,
        )
    )
    return checked is not None


def _read_rows(path: str) -> pa.Table:
    """Read the rows of a pass, in order of image_id.

    Raises:
        UserError: if they are not those of the folder's images.
    """
    work = files.join(path, WORK)
    table = block_rows.read(files.join(work, REASONS), files.join(work, MARKS)).sort_by("image_id")
    if table["image_id"] != read_images(path, columns=["image_id"])["image_id"]:
        raise UserError(f"{path}: {table.num_rows} images checked; they changed meanwhile: run again")
    return table


def _job(config: FlagConfig, path: str, chosen: Filter) -> Job:
    work = files.join(path, WORK)
    share = shares.share(choose.current().device_count() if chosen.checker else 0)
    return Job(
        source=image_files(path),
        columns=["image_id", "caption", "image"],
        steps=[
            Step(
                function=FlagImages,
                arguments={"chosen": chosen, "batch_size": config.batch_size},
                batch_size=config.batch_size,
                actors=share.copies,
                gpus=share.gpus,
            )
        ],
        output=files.join(work, REASONS),
        checkpoint=files.join(work, MARKS),
        id_column="image_id",
        row_ids=image_ids,
        rows_per_block=4 * config.batch_size,
        name="images checked",
        rows=int(read_manifest(path)["images"]),
    )
