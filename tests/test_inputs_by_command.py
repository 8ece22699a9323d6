"""Inputs that once gave a wrong result with exit code 0: by its command line each is read rightly or refused with 2."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.material import MODEL, rendered_pairs, write_pairs
from support.single_files import original_tensors, write_single

from infra.base import models
from infra.base.files import ROOT
from pipelines.drawing import image_sets
from pipelines.latents import label_files, store

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

Tensors = dict[str, torch.Tensor]
Command = Callable[..., None]
ENCODE, TRAIN, DRAW = "pipelines.encode_latents", "training.train_dpo", "pipelines.generate"
RELABEL = "labelers.relabel"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("raw"), rendered_pairs(4))


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs a command by its flags in this process."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))

    def run(name: str, **flags: object) -> None:
        given = [word for flag, value in flags.items() for word in (f"--{flag.replace('_', '-')}", str(value))]
        monkeypatch.setattr(sys, "argv", [name, "--engine", "local", *given])
        importlib.import_module(name).command()

    return run


@pytest.fixture
def refused(command: Command, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a command, which must end with code 2, and gives its one sentence."""

    def run(name: str, **flags: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            command(name, **flags)
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert stopped.value.code == 2
        assert len(errors) == 1
        return errors[0]

    return run


def set_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def rewrite(path: Path, change: Callable[[Tensors], Tensors]) -> None:
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("kind", "file", "values", "told"),
    [
        (
            "sdxl",
            "scheduler/scheduler_config.json",
            {"_class_name": "EDMEulerScheduler"},
            "that of a EDMEulerScheduler",
        ),
        (
            "sd3",
            "scheduler/scheduler_config.json",
            {"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction"},
            "use_flow_sigmas",
        ),
        ("sd-v", "unet/config.json", {"time_cond_proj_dim": 8}, "distilled to be told its guidance (LCM)"),
        ("sd-v", "vae/config.json", {"_class_name": "AutoencoderTiny"}, "that of a AutoencoderTiny"),
    ],
)
def test_settings(
    kind: str,
    file: str,
    values: dict[str, Any],
    told: str,
    raw: Path,
    tiny_pipeline: Callable[[str], Path],
    refused: Callable[..., str],
    tmp_path: Path,
) -> None:
    folder = Path(shutil.copytree(tiny_pipeline(kind), tmp_path / "model"))
    if file.startswith("scheduler"):
        index = json.loads((folder / "model_index.json").read_text())
        set_json(folder / "model_index.json", {"scheduler": [index["scheduler"][0], values["_class_name"]]})
    set_json(folder / file, values)
    sentence = refused(ENCODE, source=raw, model=folder, store=tmp_path / "store")
    assert told in sentence or values.get("_class_name", "-") in sentence
    assert not (tmp_path / "store" / store.MANIFEST).exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tensors: {n.replace("q_proj.", "q_proj.base_layer."): t for n, t in tensors.items()}, "base_layer"),
        (lambda tensors: {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}, "compiled network"),
        (lambda tensors: dict(list(tensors.items())[1:]), "it lacks 1 tensor"),
    ],
)
def test_text_encoders_in_other_names_are_not_filled_with_random_layers(
    change: Callable[[Tensors], Tensors], told: str, raw: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(MODEL, tmp_path / "model"))
    rewrite(folder / "text_encoder" / "model.safetensors", change)
    sentence = refused(ENCODE, source=raw, model=folder, store=tmp_path / "store")
    assert f"{folder}/text_encoder/model.safetensors" in sentence
    assert told in sentence


def test_a_file_that_predicts_velocity_over_a_base_that_does_not(
    raw: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    file = write_single(tmp_path / "v.safetensors", original_tensors(MODEL) | {"v_pred": torch.zeros(1)})
    told = "holds v_pred, so it predicts velocity, and the scheduler of its base says epsilon"
    assert told in refused(ENCODE, source=raw, model=f"{MODEL}+{file}", store=tmp_path / "store")
    assert told in refused(DRAW, prompts=prompts(tmp_path), model=f"{MODEL}+{file}", output=tmp_path / "images")


def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a big red circle on a teal background\n")
    return path


def test_adapters_that_match_no_layer_and_steps_that_do_not_begin_in_noise(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    lora = tmp_path / "lora" / models.ADAPTERS
    lora.parent.mkdir()
    save_file(
        {"unet.elsewhere.lora_A.weight": torch.ones(2, 8), "unet.elsewhere.lora_B.weight": torch.ones(8, 2)}, lora
    )
    flags = {"prompts": prompts(tmp_path), "model": MODEL, "output": tmp_path / "images"}
    assert "belongs to another model than" in refused(DRAW, lora=lora.parent, **flags)
    assert refused(DRAW, sampling_steps=600, **flags).startswith("error: --sampling-steps 600: ")
    assert not (tmp_path / "images").exists()


def test_a_side_that_cannot_be_drawn(
    tiny_pipeline: Callable[[str], Path], refused: Callable[..., str], tmp_path: Path
) -> None:
    """Once, a worker met it."""
    folder = Path(shutil.copytree(tiny_pipeline("sd-v"), tmp_path / "model"))
    set_json(folder / "unet" / "config.json", {"sample_size": None})
    sentence = refused(DRAW, prompts=prompts(tmp_path), model=folder, output=tmp_path / "images")
    assert "unet/config.json: sample_size is None; give one number" in sentence


def test_a_store_of_another_tokenizer(encoded_store: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(MODEL, tmp_path / "model"))
    set_json(folder / "tokenizer" / "tokenizer_config.json", {"pad_token": "!"})
    sentence = refused(TRAIN, store=encoded_store, model=folder, output=tmp_path / "run", steps=1)
    assert "was encoded with another tokenizer than" in sentence


def test_files_of_a_source(raw: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(raw, tmp_path / "raw"))
    (first,) = folder.glob("*.parquet")
    table = pq.read_table(first)
    flags = {"store": tmp_path / "store", "model": MODEL}
    assert "no split 'test'; its files' names tell no split" in refused(ENCODE, source=folder, split="test", **flags)
    (folder / "z.parquet").write_bytes(first.read_bytes()[:2000])
    assert "z.parquet: not readable as Parquet" in refused(ENCODE, source=folder, **flags)
    pq.write_table(table.drop_columns(["label_0"]), folder / "z.parquet")
    assert "z.parquet: no column label_0" in refused(ENCODE, source=folder, **flags)
    (folder / "z.parquet").unlink()
    (folder / "z.parquet").symlink_to(tmp_path / "gone")
    assert "z.parquet is a link to" in refused(ENCODE, source=folder, **flags)


def test_names_of_folders_are_no_data_and_hidden_files_no_rows(raw: Path, command: Command, tmp_path: Path) -> None:
    """Once: kept 0 pairs below a folder named status=..., and a failed Spark attempt's rows beside its own."""
    folder = Path(shutil.copytree(raw, tmp_path / "label_0=1" / "raw"))
    (first,) = folder.glob("*.parquet")
    hidden = folder / "_temporary" / "0" / first.name
    hidden.parent.mkdir(parents=True)
    table = pq.read_table(first)
    pq.write_table(table.set_column(table.schema.get_field_index("caption"), "caption", table["image_0_uid"]), hidden)
    command(ENCODE, source=folder, model=MODEL, store=tmp_path / "status=final" / "st")
    counts = store.read_manifest(str(tmp_path / "status=final" / "st")).counts
    assert (counts.rows_in, counts.kept) == (4, 4)


def test_a_lora_in_the_names_of_save_attn_procs_moves_the_images(command: Command, tmp_path: Path) -> None:
    """Once: it matched no layer, and the base's own pixels were drawn under its name."""
    lora = tmp_path / "lora" / models.ADAPTERS
    lora.parent.mkdir()
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora"
    width = load_file(MODEL / "unet" / "diffusion_pytorch_model.safetensors")[
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    ].shape[0]
    save_file({f"{layer}.down.weight": torch.ones(2, width), f"{layer}.up.weight": torch.ones(width, 2)}, lora)
    drawn = {}
    for name, added in (("base", {}), ("tuned", {"lora": lora.parent})):
        flags = {"prompts": prompts(tmp_path), "model": MODEL, "output": tmp_path / name, "sampling_steps": 2}
        command(DRAW, **flags, **added)
        drawn[name] = image_sets.read_images(str(tmp_path / name))["image"].to_pylist()
    assert drawn["base"] != drawn["tuned"]


@pytest.mark.slow
def test_models_that_changed_since_a_folder_was_begun(
    encoded_store: Path, command: Command, refused: Callable[..., str], tmp_path: Path
) -> None:
    """Once: images of the wrong schedule were called finished, and a run had two references."""
    folder = Path(shutil.copytree(MODEL, tmp_path / "model"))
    draw = {"prompts": prompts(tmp_path), "model": folder, "output": tmp_path / "images", "sampling_steps": 1}
    train = {"store": encoded_store, "model": folder, "output": tmp_path / "run", "lora_rank": 2, "micro_batch": 4}
    portions = {"global_batch": 4, "warmup_steps": 0, "cache": tmp_path / "cache"}
    command(DRAW, **draw)
    command(TRAIN, steps=1, **train, **portions)
    set_json(folder / "scheduler" / "scheduler_config.json", {"prediction_type": "v_prediction"})
    assert "was begun with other settings (fingerprints.scheduler was" in refused(DRAW, **draw)
    assert f"--model {folder}: its scheduler changed since" in refused(TRAIN, steps=2, **train, **portions)


def test_images_of_a_network_that_overflows_are_no_losses_of_its_model(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    """Once: drawn black, and counted."""
    folder = Path(shutil.copytree(MODEL, tmp_path / "model"))
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    rewrite(weights, lambda tensors: tensors | {"conv_out.bias": torch.full_like(tensors["conv_out.bias"], torch.nan)})
    flags = {"prompts": prompts(tmp_path), "model": folder, "output": tmp_path / "images", "sampling_steps": 1}
    assert "1 of 1 images are not finite in float32" in refused(DRAW, **flags)
    assert not (tmp_path / "images" / image_sets.DONE).exists()


@pytest.mark.slow
def test_a_side_of_before_diffusers_0_9(
    raw: Path, tiny_pipeline: Callable[[str], Path], command: Command, tmp_path: Path
) -> None:
    """Once: encoded at half the side that generate.py draws. The tiny VAE halves once, and 2 x 64 = 128."""
    folder = Path(shutil.copytree(tiny_pipeline("sd-v"), tmp_path / "model"))
    set_json(folder / "unet" / "config.json", {"sample_size": 32, "_diffusers_version": "0.8.0"})
    command(ENCODE, source=raw, model=folder, store=tmp_path / "store")
    assert store.read_manifest(str(tmp_path / "store")).resolution == 128


def test_ids_that_are_uuids_and_captions_with_an_end_token(raw: Path, command: Command, tmp_path: Path) -> None:
    """Once: every pair_id was another for the workers, so no pair was labelled; and no caption counted as cut."""
    (first,) = raw.glob("*.parquet")
    table = pq.read_table(first)
    for name in ("image_0_uid", "image_1_uid"):
        made = [uuid.uuid5(uuid.NAMESPACE_OID, text).bytes for text in table[name].to_pylist()]
        column = pa.ExtensionArray.from_storage(pa.uuid(), pa.array(made, pa.binary(16)))
        table = table.set_column(table.schema.get_field_index(name), name, column)
    captions = [f"{table['caption'][0]}<|endoftext|> on teal", *table["caption"].to_pylist()[1:]]
    table = table.set_column(table.schema.get_field_index("caption"), "caption", pa.array(captions))
    (tmp_path / "raw").mkdir()
    pq.write_table(table, tmp_path / "raw" / "uuids.parquet")
    flags = {"source": tmp_path / "raw", "store": tmp_path / "store"}
    command(ENCODE, model=MODEL, **flags)
    weights = f"pickscore={ROOT}/infra/world/scorers/pickscore"  # by path: its own words alone would be refused
    command(RELABEL, scorer="pickscore", weights=weights, **flags)
    labels, _ = label_files.read_labels(str(tmp_path / "store"), "pickscore")
    assert labels["pair_id"].to_pylist() == store.kept_pairs(str(tmp_path / "store"))["pair_id"].to_pylist()
    assert label_files.read_labels_manifest(str(tmp_path / "store"), "pickscore")["counts"]["truncated_captions"] == 1
