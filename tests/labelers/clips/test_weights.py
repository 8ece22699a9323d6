"""Bad weights are refused in one sentence, and nothing in them runs."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.scorer_material import write_all

from infra.base.errors import UserError
from labelers.clips import weights
from labelers.scoring import scorers


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("scorers"))


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "scorers"))


def refusal(name: str, path: Path) -> str:
    with pytest.raises(UserError) as caught:
        scorers.check(name, str(path))
    message = str(caught.value)
    assert "\n" not in message
    return message


class Hostile:
    """Unpickled, it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.target,)


def plain_pickle(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=2))


def old_format(value: object, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [torch.save, old_format, plain_pickle])
@pytest.mark.parametrize(
    ("name", "file"),
    [("hpsv2", "HPS_v2_compressed.pt"), ("hpsv2.1", "HPS_v2.1_compressed.pt"), ("aesthetics", "head.pth")],
)
@pytest.mark.chaos
def test_code_in_a_checkpoint_does_not_run(folder: Path, name: str, file: str, write: Callable[..., None]) -> None:
    target = folder / "made by the pickle"
    path = folder / name / file
    write({"state_dict": Hostile(target)}, path)
    message = refusal(name, folder / name)
    assert message == f"{path}: holds code or objects (posix.mkdir), not only tensors; it was not loaded"
    with pytest.raises(UserError):
        weights.read_state(path)
    assert not target.exists()
    pickle.loads(pickle.dumps(Hostile(target)))  # the trap is real
    assert target.exists()


@pytest.mark.chaos
def test_torchscript_is_code(folder: Path) -> None:
    path = folder / "hpsv2" / "HPS_v2_compressed.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    assert "holds code or objects (TorchScript)" in refusal("hpsv2", path)


@pytest.mark.parametrize("name", ["pickscore", "aesthetics"])
@pytest.mark.chaos
def test_pickled_transformers_weights_are_not_looked_at(folder: Path, name: str) -> None:
    path = folder / name / "model.safetensors"
    torch.save(load_file(path), folder / name / "pytorch_model.bin")
    path.unlink()
    assert "no model.safetensors, and pickled weights are not loaded" in refusal(name, folder / name)


def score(path: Path) -> float:
    return float(scorers.load("pickscore", str(path)).score([Image.new("RGB", (9, 9), "red")], ["a star"])[0])


def test_weights_that_exist_only_as_a_variant_are_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(folder))
    before = score(folder / "pickscore"), scorers.load("pickscore", str(folder / "pickscore")).fingerprint
    path = folder / "pickscore" / "model.safetensors"
    path.rename(path.with_name("model.fp16.safetensors"))
    scorers.check("pickscore", str(folder / "pickscore"))
    assert "has no weights but those of the variant fp16, which are taken" in capsys.readouterr().err
    assert (score(folder / "pickscore"), scorers.load("pickscore", str(folder / "pickscore")).fingerprint) == before


def test_weights_in_parts_are_compared_with_their_index(folder: Path) -> None:
    place = folder / "pickscore"
    before = score(place)
    state = load_file(place / "model.safetensors")
    (place / "model.safetensors").unlink()
    names = sorted(state)
    parts = {f"model-0000{number}-of-00002.safetensors": names[number - 1 :: 2] for number in (1, 2)}
    for file, inside in parts.items():
        save_file({name: state[name] for name in inside}, place / file, metadata={"format": "pt"})
    assert "are in parts, and model.safetensors.index.json, which names them, is not there" in refusal(
        "pickscore", place
    )
    index = place / "model.safetensors.index.json"
    places = {"weight_map": {name: file for file, inside in parts.items() for name in inside}}
    index.write_text(json.dumps(places))
    assert refusal("pickscore", place).startswith(f"{index}: has no metadata, which transformers asks for")
    index.write_text(json.dumps(places | {"metadata": {}}))
    assert score(place) == pytest.approx(before, rel=1e-5)  # tensors lie elsewhere in other files
    (place / "model-00002-of-00002.safetensors").unlink()
    assert refusal("pickscore", place).startswith(
        f"{index}: names model-00002-of-00002.safetensors, which is not there"
    )


@pytest.mark.parametrize("name", sorted({"aesthetics", "clip", "hpsv2", "hpsv2.1", "pickscore"}))
def test_absent_weights(name: str, tmp_path: Path) -> None:
    assert (
        refusal(name, tmp_path / "none")
        == f"--weights {name}={tmp_path / 'none'}: no such local file or folder; give another, world or published"
    )
    assert str(tmp_path) in refusal(name, tmp_path)


def test_published_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("aesthetics", "clip", "hpsv2", "hpsv2.1", "pickscore"):
        with pytest.raises(UserError, match=r"^\S+/\S+: not in the local cache and not reachable on the Hub"):
            scorers.check(name, "published")


def test_another_architecture(folder: Path) -> None:
    # Each gets a checkpoint that is whole, but another model's.
    clip = load_file(folder / "clip" / "open_clip_model.safetensors")
    save_file(load_file(folder / "pickscore" / "model.safetensors"), folder / "clip" / "open_clip_model.safetensors")
    assert "not the weights of the model in open_clip_config.json beside it: no tensor" in refusal(
        "clip", folder / "clip"
    )
    save_file(clip, folder / "pickscore" / "model.safetensors")
    assert "not the weights of the CLIPModel in its config.json: no tensor" in refusal(
        "pickscore", folder / "pickscore"
    )
    wrong = {name: torch.zeros(3, *value.shape) for name, value in clip.items()}
    torch.save({"state_dict": wrong}, folder / "hpsv2" / "HPS_v2_compressed.pt")
    assert "positional_embedding is 3x77x64, not 77x64" in refusal("hpsv2", folder / "hpsv2")
    torch.save(load_head(768), folder / "aesthetics" / "head.pth")
    message = refusal("aesthetics", folder / "aesthetics")
    assert "not the weights of an aesthetic head over 64 numbers: layers.0.weight is 1024x768, not 1024x64" in message


def test_a_deeper_model_is_another_one(folder: Path) -> None:
    path = folder / "clip" / "open_clip_model.safetensors"
    state = load_file(path)
    save_file(state | {"attn_mask": torch.zeros(1), "visual.transformer.resblocks.3.ln_1.weight": torch.zeros(1)}, path)
    assert refusal("clip", path).endswith("beside it: it has no visual.transformer.resblocks.3.ln_1.weight")
    save_file(state | {"attn_mask": torch.zeros(1)}, path)
    scorers.check("clip", str(path))
    assert scorers.load("clip", str(path)).score([Image.new("RGB", (9, 9))], ["a star"]).shape == (1,)


def test_a_broken_tokenizer(folder: Path) -> None:
    for name, what in [("clip", "tokenizer"), ("pickscore", "processor")]:
        (folder / name / "tokenizer.json").write_text("{}")
        assert f"{folder / name}: its {what} cannot be read" in refusal(name, folder / name)


def load_head(width: int) -> dict[str, torch.Tensor]:
    from labelers.clips.aesthetics import Head

    return Head(width).state_dict()


def test_without_a_description_a_checkpoint_must_be_vit_h_14(folder: Path) -> None:
    (folder / "hpsv2" / "open_clip_config.json").unlink()
    message = refusal("hpsv2", folder / "hpsv2")
    assert "not the weights of ViT-H-14: positional_embedding is 77x64, not 77x1024" in message


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "not a readable checkpoint of tensors"),
        (b"garbage", "not a readable checkpoint of tensors"),
        (None, "no state dict in it"),
    ],
)
def test_files_that_are_no_checkpoint(folder: Path, content: bytes | None, what: str) -> None:
    path = folder / "hpsv2" / "HPS_v2_compressed.pt"
    path.write_bytes(content) if content is not None else torch.save([1, 2], path)
    assert what in refusal("hpsv2", path)


def test_a_cut_safetensors_file(folder: Path) -> None:
    for name, file in [("clip", "open_clip_model.safetensors"), ("pickscore", "model.safetensors")]:
        path = folder / name / file
        path.write_bytes(path.read_bytes()[:-100])
        assert f"{path}: not a readable safetensors file" in refusal(name, folder / name)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_configuration_of_another_model(folder: Path) -> None:
    change(folder / "pickscore" / "config.json", model_type="siglip")
    assert "model_type is 'siglip'; the scorer needs 'clip'" in refusal("pickscore", folder / "pickscore")
    (folder / "aesthetics" / "config.json").write_text("{")
    assert "config.json: not valid JSON" in refusal("aesthetics", folder / "aesthetics")
    (folder / "aesthetics" / "config.json").unlink()
    assert "no config.json" in refusal("aesthetics", folder / "aesthetics")


@pytest.mark.parametrize("key", ["hf_model_name", "tokenizer_kwargs", "timm_model_name"])
def test_a_description_that_names_other_code(folder: Path, key: str) -> None:
    path = folder / "clip" / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"][key] = {"trust_remote_code": True}
    path.write_text(json.dumps(config))
    assert f"{key}: the scorer takes only CLIP's own towers" in refusal("clip", folder / "clip")


def test_adapters_beside_weights_are_not_loaded_unseen(folder: Path) -> None:
    (folder / "pickscore" / "adapter_config.json").write_text("{}")
    assert "holds adapter_config.json, and transformers would load these" in refusal("pickscore", folder / "pickscore")


def test_a_folder_without_its_processor(folder: Path) -> None:
    (folder / "pickscore" / "preprocessor_config.json").unlink()
    assert "neither preprocessor_config.json nor processor_config.json" in refusal("pickscore", folder / "pickscore")
    (folder / "aesthetics" / "tokenizer.json").unlink()
    assert "neither tokenizer.json nor vocab.json" in refusal("aesthetics", folder / "aesthetics")
