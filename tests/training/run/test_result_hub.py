"""A run's result handed on to a stand-in of the Hub: its card there opens it by its name, and its facts fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import hub_server

from infra.base import named_files, result_files
from infra.base.errors import UserError
from training.run import result_hub, train_dpo
from training.settings.config import TrainConfig

CARD = """---
base_model: owner/base
---
Run this in the folder where this card lies:

pipeline = DiffusionPipeline.from_pretrained("{base}", dtype=torch.float32)
pipeline.load_lora_weights(".")

- diffusers: `pipeline.load_lora_weights(".", weight_name="run.safetensors")` in place of the line above
- diffusers: `diffusers.X.from_single_file("run.safetensors", config=".")`
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[hub_server.HubServer]:
    with hub_server.running() as running:
        hub_server.use(running, monkeypatch)
        yield running


def finished(folder: Path) -> Path:
    """Write a result with a card, facts that name it, and weights."""
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(CARD.format(base=folder))
    (folder / "w.safetensors").write_bytes(b"w" * 5000)
    facts = {"config": {}, "files": named_files.describe(str(folder), ["README.md", "w.safetensors"])}
    (folder / "facts.json").write_text(json.dumps(facts))
    return folder


def test_a_card_on_the_hub_names_the_result_and_the_base_as_others_reach_them(tmp_path: Path) -> None:
    said = result_hub.on_hub(CARD.format(base=tmp_path), "me/x", str(tmp_path), [])
    assert "These lines draw with it:" in said
    assert 'from_pretrained("owner/base", dtype=torch.float32)' in said
    assert 'load_lora_weights("me/x")' in said
    assert 'load_lora_weights("me/x", weight_name="run.safetensors")' in said
    assert 'from_single_file("https://huggingface.co/me/x/blob/main/run.safetensors", config="me/x")' in said


def test_a_result_is_sent_once_and_is_whole_where_it_arrives(server: hub_server.HubServer, tmp_path: Path) -> None:
    folder = finished(tmp_path / "run" / "result")
    config = TrainConfig(output=str(tmp_path / "run"), model=str(folder), push_to_hub="me/x")
    assert "3 files are in the repository, which is new and private" in result_hub.push(str(folder), config)
    assert "nothing was sent" in result_hub.push(str(folder), config)
    there = tmp_path / "there"
    there.mkdir()
    for name, content in server.repositories["models/me/x"].files.items():
        (there / name).write_bytes(content)
    assert list(result_files.problems(str(there))) == []
    assert b'load_lora_weights("me/x")' in (there / "README.md").read_bytes()
    assert '("."' in (folder / "README.md").read_text()  # the one here stays


def test_what_is_sent_names_no_folder_of_this_machine(server: hub_server.HubServer, tmp_path: Path) -> None:
    home = str(tmp_path / "jürgen")
    folder = finished(tmp_path / "run" / "result")
    (folder / "unet").mkdir()
    for name, opened in (("unet/config.json", f"{home}/base/unet"), ("model_index.json", "owner/base")):
        (folder / name).write_text(json.dumps({"_class_name": "X", "_name_or_path": opened}))
    settings = {
        "model": f"{home}/base+{home}/unet",
        "store": f"{home}/store",
        "judge": [f"clip={home}/clip"],
        "seed": 0,
    }
    (folder / "README.md").write_text(f"{home}/base, s3://b{home}/store\n{json.dumps(settings)}")
    names = ["README.md", "w.safetensors", "unet/config.json", "model_index.json"]
    facts = {"config": settings, "files": named_files.describe(str(folder), names)}
    (folder / "facts.json").write_text(json.dumps(facts))
    config = TrainConfig(output=str(tmp_path / "run"), model=str(folder), push_to_hub="me/x")
    result_hub.push(str(folder), config)
    sent = server.repositories["models/me/x"].files
    told = {"model": "base+unet", "store": "store", "judge": ["clip=clip"], "seed": 0}
    assert json.loads(sent["facts.json"])["config"] == told
    assert sent["README.md"].decode() == f"base, s3://b{home}/store\n{json.dumps(told)}"  # what S3 has stays
    assert json.loads(sent["unet/config.json"])["_name_or_path"] == "unet"
    assert json.loads(sent["model_index.json"])["_name_or_path"] == "owner/base"
    there = tmp_path / "there"
    (there / "unet").mkdir(parents=True)
    for name, content in sent.items():
        (there / name).write_bytes(content)
    assert list(result_files.problems(str(there))) == []  # their sizes and hashes are those of what was sent


def test_a_token_that_only_reads_ends_the_command_before_anything(server: hub_server.HubServer, tmp_path: Path) -> None:
    server.whoami["auth"] = {"accessToken": {"role": "read"}}
    with pytest.raises(UserError, match="--push-to-hub me/x: the token in HF_TOKEN only reads"):
        train_dpo.main(TrainConfig(output=str(tmp_path / "run"), push_to_hub="me/x"))
    assert not (tmp_path / "run").exists()
