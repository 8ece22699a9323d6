"""What is staged: the files that a manifest names, labels of this very store, and copies that are still whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from infra.base import named_files
from infra.base.errors import UserError
from infra.benchmarks.random_store import write_store
from labelers.labels import known_scores
from pipelines.latents import label_files, store
from training.data.applied_labels import apply_labels
from training.data.staging import stage
from training.data.stored import StoredPairs

PAIRS = 5
KEPT_BLOCK = "pairs/status=kept/part-0.parquet"


@pytest.fixture
def random_store(tmp_path: Path) -> Path:
    write_store(tmp_path / "store", PAIRS, (1, 2, 2), {"embedding": (2,)}, indexed=False)
    return tmp_path / "store"


def latents_of(stored: StoredPairs) -> np.ndarray:
    return np.stack(list(stored.latents.begin(np.arange(PAIRS))().values()))


@pytest.mark.parametrize(
    ("beside", "copied"),
    [
        ("pairs/status=kept/part-0 (1).parquet", KEPT_BLOCK),
        ("pairs/status=kept/.part-0.parquet.Xa3f9.parquet", KEPT_BLOCK),
        ("pairs/status=kept/._part-0.parquet", None),
        ("pairs/status=tie/other.parquet", KEPT_BLOCK),
        ("prompts/part-0 copy.parquet", "prompts/part-0.parquet"),
    ],
)
def test_a_parquet_file_too_many_is_named_and_refused(random_store: Path, beside: str, copied: str | None) -> None:
    target = random_store / beside
    target.parent.mkdir(exist_ok=True)
    if copied:
        shutil.copy(random_store / copied, target)
    else:
        target.write_bytes(b"\0\5\x16\7")  # macOS's note of a file's attributes, under a Parquet file's name
    manifest = store.read_manifest(str(random_store))
    with pytest.raises(UserError) as refused:
        store.verify(str(random_store), manifest)
    assert str(refused.value).startswith(f"{target}: a Parquet file too many, which no manifest here names; delete it")
    with pytest.raises(UserError, match="a Parquet file too many"):
        stage(str(random_store), str(random_store.parent / "cache"))
    target.unlink()
    store.verify(str(random_store), manifest, contents=True)


def test_readers_take_the_manifests_files_and_nothing_else(
    random_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = stage(str(random_store), str(tmp_path / "clean"))
    shutil.copy(random_store / KEPT_BLOCK, random_store / "pairs/status=kept/part-0 (1).parquet")
    shutil.copy(random_store / "prompts/part-0.parquet", random_store / "prompts/part-1.parquet")
    assert store.kept_pairs(str(random_store))["pair_id"].to_pylist() == list(range(PAIRS))
    monkeypatch.setattr(named_files, "unknown", lambda *_: iter(()))  # as if it came after the check
    staged = stage(str(random_store), str(tmp_path / "other"))
    assert staged.pair_ids.tolist() == list(range(PAIRS))
    assert np.array_equal(latents_of(staged), latents_of(clean))
    one, other = [opened.prompts.begin(np.arange(17))()["embedding"] for opened in (staged, clean)]
    assert np.array_equal(one, other)


def test_a_label_set_with_a_file_too_many_is_refused(random_store: Path) -> None:
    folder = random_store / "labels" / "human"
    shutil.copy(folder / "part-0.parquet", folder / "part-0 (1).parquet")
    with pytest.raises(UserError, match=r"labels/human/part-0 \(1\)\.parquet: a Parquet file too many"):
        label_files.read_labels(str(random_store), "human")


def test_a_label_set_of_another_store_is_refused_with_both_hashes(random_store: Path) -> None:
    own = store.read_manifest(str(random_store)).content_hash
    table, sha = label_files.read_labels(str(random_store), "human")  # names no store, as those of before
    for name, named in (("ours", own), ("theirs", "c0ffee")):
        label_files.write_labels(str(random_store), name, table, {"settings": {"store_hash": named}})
    assert label_files.read_labels(str(random_store), "ours")[1] == sha
    with pytest.raises(UserError) as refused:
        apply_labels(stage(str(random_store), str(random_store.parent / "cache")), str(random_store), "theirs")
    path = f"{random_store}/labels/theirs"
    assert str(refused.value) == (
        f"{path}/manifest.json: labels of another store, of contents c0ffee, while {random_store} holds {own}; "
        f"delete {path} and run relabel.py again"
    )
    with pytest.raises(UserError, match="labels of another store"):  # nor are its scores taken for another rule
        known_scores.known_scores(str(random_store), {"store_hash": own, "scorer": "one"})


@pytest.mark.parametrize("name", ["latents.npy", "prompts-embedding.npy", "pair_ids.npy", "prompt_rows.npy"])
def test_a_staged_copy_of_zeros_or_without_a_file_is_staged_again(
    name: str, random_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = latents_of(stage(str(random_store), str(tmp_path / "cache")))
    capsys.readouterr()
    (file,) = (tmp_path / "cache").rglob(name)
    whole = file.read_bytes()
    file.write_bytes(whole[:128] + bytes(len(whole) - 128))  # the header is there, and no number
    assert np.array_equal(latents_of(stage(str(random_store), str(tmp_path / "cache"))), before)
    assert file.read_bytes() == whole
    told, copying = capsys.readouterr().err.splitlines()
    assert told == f"{file.parent}: {name} holds other bytes than were copied, so {random_store} is copied again"
    # 5 pairs of 2 x 4 values, and 17 captions of 2, two bytes each
    cache = file.parent.parent
    assert copying == (
        f"{random_store}: has no index, as stores of earlier versions, so its 148 bytes are copied to {cache}"
    )
    file.unlink()
    stage(str(random_store), str(tmp_path / "cache"))
    assert file.read_bytes() == whole
