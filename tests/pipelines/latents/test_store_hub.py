"""A store and its label sets handed on to a stand-in of the Hub: what is sent, and that its card's header is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import yaml
from huggingface_hub import constants
from support import hub_server

from infra.base.errors import UserError
from labelers.labels import combine
from labelers.labels.combine_config import CombineConfig
from pipelines.latents import encode_latents, store, store_hub
from pipelines.latents.encode_config import EncodeConfig


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[hub_server.HubServer]:
    with hub_server.running() as running:
        hub_server.use(running, monkeypatch)
        yield running


def written(server: hub_server.HubServer, name: str, folder: Path) -> Path:
    """Write what a repository has, as a download does."""
    for path, content in server.repositories[name].files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def test_a_finished_store_is_sent_by_its_own_command_and_read_by_its_card(
    server: hub_server.HubServer,
    copied_store: Path,
    raw_pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = EncodeConfig(source=str(raw_pairs), store=str(copied_store), push_to_hub="me/store", hub_license="mit")
    encode_latents.main(config)
    encode_latents.main(config)
    lines = [line for line in capsys.readouterr().out.splitlines() if server.address in line]
    assert "files are in the repository, which is new and private" in lines[0]
    assert lines[1].endswith("files already, nothing was sent")
    folder = written(server, "datasets/me/store", tmp_path / "there")
    assert not list(folder.rglob("*.html"))
    assert list(store.problems(str(folder), store.read_manifest(str(folder)))) == []
    told = [path.read_text() for path in (*folder.rglob("*.json"), *folder.rglob("*.md"))]
    assert str(raw_pairs) in (copied_store / "manifest.json").read_text()
    assert not [text for text in told if str(raw_pairs.parent) in text]  # others need not see a person's folders
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    kept = datasets.load_dataset(str(folder), "pairs", split="train")
    manifest = store.read_manifest(str(copied_store))
    assert kept.num_rows == manifest.counts.kept
    assert "latents_0" in kept.column_names
    assert datasets.load_dataset(str(folder), "labels-human", split="train").num_rows == manifest.counts.kept
    header = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert (header["license"], header["size_categories"]) == ("mit", ["n<1K"])


def test_label_sets_go_beside_their_store_and_its_card_stays(server: hub_server.HubServer, copied_store: Path) -> None:
    config = CombineConfig(store=str(copied_store), sets=("human",), flip=True, output="worse", push_to_hub="me/labels")
    combine.main(config)
    alone = server.repositories["datasets/me/labels"].files
    assert {"README.md", "labels/worse/manifest.json", "labels/worse/part-0.parquet"} <= alone.keys()
    assert not any(name.startswith(("pairs", "labels/human")) or "/." in name for name in alone)
    assert store.read_manifest(str(copied_store)).content_hash in alone["README.md"].decode()
    store_hub.push(str(copied_store), "me/store", "unknown")
    card = server.repositories["datasets/me/store"].files["README.md"]
    assert b"labels/worse/part-0.parquet" in card
    combine.main(replace(config, push_to_hub="me/store"))
    assert server.repositories["datasets/me/store"].files["README.md"] == card


def test_nothing_is_encoded_that_could_not_be_sent(
    server: hub_server.HubServer, raw_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="--push-to-hub me/x: HF_HUB_OFFLINE is set, so nothing is sent"):
        encode_latents.main(EncodeConfig(source=str(raw_pairs), store=str(tmp_path / "store"), push_to_hub="me/x"))
    assert not (tmp_path / "store").exists()
    assert server.asked == []
