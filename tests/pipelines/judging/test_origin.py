"""Who labelled a model's training data: known, known not to, or said to be unknown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.judging_material import write_label_set, write_run

from infra.base import files
from pipelines.judging.origin import NO_FACTS, find_origin
from pipelines.latents import label_files


def trained(folder: Path, labels: str, scorer: str | None, model: str = "someone/base", validation: str = "") -> str:
    """Write a result and the label set that it was trained on; return the result's folder."""
    latent = str(folder / "store")
    run = write_run(folder / "run", labels=labels, labels_hash=write_label_set(latent, labels, scorer))
    path = Path(run) / "result" / "facts.json"
    facts = json.loads(path.read_text())
    facts["config"] |= {"model": model}
    facts["config"]["data"]["store"] = latent
    facts["config"]["validation"] = {"validation_scorer": "clip", "validation_prompts": validation}
    path.write_text(json.dumps(facts))
    return f"{run}/result"


def human(folder: Path, settings: dict[str, object] | None) -> str:
    """Write a result on the pairs' own labels, whose raw pairs have these settings; None: a folder without."""
    model = trained(folder, "human", None)
    labels = label_files.read_labels_manifest(str(folder / "store"), "human") | {"source": str(folder / "raw")}
    files.write_json(str(folder / "store" / "labels" / "human" / "manifest.json"), labels)
    (folder / "raw").mkdir()
    if settings is not None:
        files.write_json(str(folder / "raw" / "_config.json"), settings)
    return model


def test_a_label_set_names_its_scorer(tmp_path: Path) -> None:
    found = find_origin(trained(tmp_path, "by-pickscore", "pickscore"))
    assert (found.labelled_by, found.unknown) == (("pickscore",), ())
    assert (found.labelled("pickscore"), found.labelled("clip")) == (True, False)
    assert found.chose("clip") is False  # there was no validation


def test_a_combined_label_set_names_the_scorers_of_its_sets(tmp_path: Path) -> None:
    """A set of ranks, made of a vote of two scorers' sets: both scorers labelled, a third one did not."""
    latent = str(tmp_path / "store")
    model = trained(tmp_path, "ranked", None)
    for name, scorer in (("by-clip", "clip"), ("p", "pickscore"), ("vote", None)):
        write_label_set(latent, name, scorer)
    for name, sets in (("vote", ("by-clip", "p")), ("ranked", ("vote",))):
        manifest = tmp_path / "store" / "labels" / name / "manifest.json"
        hashes = {one: label_files.read_labels_manifest(latent, one)["sha256"] for one in sets}
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"settings": {"sets": hashes}}))
    found = find_origin(model)
    assert (found.labelled_by, found.unknown) == (("clip", "pickscore"), ())
    assert found.labelled("aesthetics") is False
    for path in (tmp_path / "store" / "labels" / "p").iterdir():
        path.unlink()
    found = find_origin(model)
    assert found.labelled_by == ("clip",)
    assert found.unknown == (f"the label set p is no longer in {latent}",)
    assert found.labelled("aesthetics") is None


def test_the_scorer_that_picked_a_checkpoint_is_told(tmp_path: Path) -> None:
    found = find_origin(trained(tmp_path, "p", "aesthetics", validation="validation.txt"))
    assert (found.chose("clip"), found.chose("pickscore")) == (True, False)


@pytest.mark.parametrize(
    ("settings", "labelled_by"),
    [
        (None, ()),  # people's
        ({"table": "pairs.csv"}, ()),  # imported
        ({"config": {"scorer": "red"}, "scores_sha256": "0"}, ("red",)),  # rank_pairs.py's
        ({"scorer": "red", "scores_sha256": "0"}, ("red",)),  # the same as earlier versions wrote it
        ({"temperature": 0.01, "tie_margin": 0.0045}, ("oracle",)),  # the embedded world's
    ],
)
def test_the_pairs_own_labels_are_looked_up_where_they_were_made(
    tmp_path: Path, settings: dict[str, object] | None, labelled_by: tuple[str, ...]
) -> None:
    found = find_origin(human(tmp_path, settings))
    assert (found.labelled_by, found.unknown) == (labelled_by, ())


def test_a_store_remembers_who_labelled_its_pairs(tmp_path: Path) -> None:
    model = human(tmp_path, None)
    manifest = tmp_path / "store" / "labels" / "human" / "manifest.json"
    for names in ([], ["red"]):
        told = json.loads(manifest.read_text()) | {"source": "owner/dataset", "labelled_by": names}
        manifest.write_text(json.dumps(told))
        found = find_origin(model)
        assert (found.labelled_by, found.unknown) == (tuple(names), ())


def test_a_round_counts_with_those_before_it(tmp_path: Path) -> None:
    first = trained(tmp_path / "1", "a", "aesthetics")
    second = trained(tmp_path / "2", "p", "pickscore", model=first)
    assert find_origin(second).labelled_by == ("pickscore", "aesthetics")


def test_what_cannot_be_looked_up_is_unknown(tmp_path: Path) -> None:
    nothing = find_origin("someone/model")
    assert (nothing.unknown, nothing.labelled("clip"), nothing.chose("clip")) == ((NO_FACTS,), None, None)
    gone = human(tmp_path / "a", None)
    (tmp_path / "a" / "raw").rmdir()
    assert find_origin(gone).labelled("clip") is None
    assert find_origin(gone).chose("pickscore") is False  # its facts are there
    model = trained(tmp_path / "b", "p", "pickscore")
    write_label_set(str(tmp_path / "b" / "store"), "p", "clip", fingerprint="another")
    labels = tmp_path / "b" / "store" / "labels" / "p" / "manifest.json"
    labels.write_text(json.dumps(json.loads(labels.read_text()) | {"sha256": "changed"}))
    assert "not the one that was trained on" in find_origin(model).unknown[0]
    labels.unlink()
    assert "no longer in" in find_origin(model).unknown[0]
    assert find_origin(model).in_report(["clip"])["scorers"] == {"clip": {"labelled": None, "chose_checkpoint": False}}


@pytest.mark.parametrize("earlier", ["/gone/run1/result", "s3://{bucket}/run1/result", "runs/no/such/result"])
def test_an_earlier_run_that_is_out_of_reach_leaves_doubt(tmp_path: Path, bucket: str, earlier: str) -> None:
    model = trained(tmp_path, "p", "pickscore", model=earlier.format(bucket=bucket.removeprefix("s3://")))
    found = find_origin(model)
    assert found.labelled("pickscore") is True
    assert (found.labelled("clip"), found.chose("clip")) == (None, None)
    assert found.unknown[0].endswith("/result can't be looked up, so what it was trained on is unknown")


def test_a_result_on_s3_tells_as_much(tmp_path: Path, bucket: str) -> None:
    local, place = trained(tmp_path, "p", "pickscore"), f"{bucket}/{tmp_path.name}/result"
    files.write_bytes(f"{place}/facts.json", Path(local, "facts.json").read_bytes())
    assert find_origin(place) == find_origin(local)
    assert find_origin(place).labelled("pickscore") is True


def test_adapters_count_with_the_model_that_they_are_put_onto(tmp_path: Path) -> None:
    adapters = trained(tmp_path / "lora", "a", "aesthetics")
    beneath = trained(tmp_path / "dpo", "p", "pickscore")
    assert find_origin(adapters, beneath).labelled_by == ("aesthetics", "pickscore")
    assert find_origin(adapters, "someone/base") == find_origin(adapters)  # a base need not tell of its training


def test_paths_that_count_from_nowhere_are_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(tmp_path, "p", "pickscore")
    facts = tmp_path / "run" / "result" / "facts.json"
    facts.write_text(facts.read_text().replace(str(tmp_path / "store"), "runs/store"))
    monkeypatch.setattr(files, "ROOT", Path("/tmp/ray/runtime_resources/upload"))
    found = find_origin(model)
    assert found.labelled("pickscore") is None
    assert "with --working-dir every path must be absolute" in found.unknown[0]
    assert find_origin("someone/model").unknown == (NO_FACTS,)
