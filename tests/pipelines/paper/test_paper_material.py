"""What the experiments beside the sweep left, on made pairs whose every score is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support import paper_folder
from support.paper_folder import SEEDS, change, means

from infra.base import files
from infra.base.errors import UserError
from pipelines.paper.paper_material import first_scores, read_edits, read_implicit, read_rejection, training_images
from pipelines.paper.paper_run import PaperRun, read_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PaperRun]:
    with paper_folder.written(tmp_path_factory.mktemp("paper")) as folder:
        yield read_run(folder)


def test_implicit_points_leave_out_what_people_tied(run: PaperRun) -> None:
    found = read_implicit(run)
    assert found.right.shape == found.agrees.shape == (len(SEEDS), 7)  # of eight pairs people tied one
    assert means(found.right) == [1.0, 1.0]  # redder won
    assert means(found.agrees) == [0.0, 0.0]  # and fidelity reads green, of which redder images have less
    assert found.scorers["clip"].mean() == 1.0
    assert found.scorers["fidelity"].mean() == 0.0
    assert len(np.unique(found.prompts)) == 7
    assert [row["scorer"] for row in found.table] == list(paper_folder.JUDGES)


def test_implicit_margins_of_other_pairs_are_refused(run: PaperRun) -> None:
    path = run.path("implicit", "seed-1", "accuracy.json")
    before = files.read_json(path)
    change(path, settings={"test": {"pairs": "others"}})
    with pytest.raises(UserError, match=r"seed-1: it was measured on other pairs than .* has now"):
        read_implicit(run)
    change(path, **before)


@pytest.mark.parametrize(
    ("part", "read"),
    [("implicit/seed-1/accuracy.json", read_implicit),
     ("rejection/fidelity/seed-0/rejection_sampling.json", read_rejection)],
)  # fmt: skip
def test_a_missing_part_is_named(run: PaperRun, part: str, read: object) -> None:
    path = Path(run.path(part))
    kept = path.rename(path.with_suffix(".kept"))
    with pytest.raises(
        UserError, match=f"{part}: there is no such file, so this part is not finished; run make paper again"
    ):
        read(run)  # type: ignore[operator]
    kept.rename(path)


def test_the_censored_count_as_the_cap(run: PaperRun) -> None:
    found = read_rejection(run)
    assert found.draws["oracle"].tolist() == [[100, 1, 2, 100, 1, 2], [1, 2, 100, 1, 2, 100]]
    assert found.censored == {"oracle": [2, 2], "fidelity": [2, 2]}
    assert (found.cap, found.captions) == (100, paper_folder.CAPTIONS)


def test_rejection_of_other_captions_is_refused(run: PaperRun) -> None:
    path = run.path("rejection", "fidelity", "seed-1", "rejection_sampling.json")
    before = files.read_json(path)
    change(path, draws={"another": 1})
    with pytest.raises(UserError, match=r"fidelity/seed-1/.*: it has other captions or another cap"):
        read_rejection(run)
    change(path, **before)


def test_edits_are_won_prompt_by_prompt(run: PaperRun) -> None:
    points, counted = read_edits(run, "edits")["oracle"]
    assert points.tolist() == np.ones((2, 6)).tolist()
    assert [one["win"]["count"] for one in counted] == [6, 6]


def test_edits_at_another_strength_are_refused(run: PaperRun) -> None:
    paths = [Path(run.path("sdedit", name)) for name in ("edits", "layouts", "other")]
    for source, target in ((0, 2), (1, 0)):
        paths[source].rename(paths[target])
    with pytest.raises(UserError, match=r"edits/base: these images have strength 0\.98, not 0\.6"):
        read_edits(run, "edits")
    for source, target in ((0, 1), (2, 0)):
        paths[source].rename(paths[target])


def test_training_images_are_scored_by_who_won(run: PaperRun) -> None:
    own, weaker = (training_images(run, name)["oracle"] for name in ("store", "weaker_store"))
    assert sorted(own["winners"]) == pytest.approx(range(120, 127), abs=1.5)  # JPEG's rounding
    assert sorted(own["losers"]) == pytest.approx(range(80, 87), abs=1.5)
    assert weaker["winners"].mean() == pytest.approx(33, abs=1)
    assert first_scores(run.base, "oracle").mean() == 122.5
