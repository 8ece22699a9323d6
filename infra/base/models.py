"""Where models come from: a diffusers folder or a Hub name, as a local folder, and the fingerprints of its parts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from infra.base import files
from infra.base.errors import UserError
from infra.base.node_cache import staged_once


def quiet() -> None:
    """Keep the libraries' progress bars, one per loaded file, out of the jobs' logs."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


INDEX = "model_index.json"  # diffusers' name for what a pipeline is made of
ADAPTERS = "pytorch_lora_weights.safetensors"  # and for LoRA weights
WEIGHTS = ("diffusion_pytorch_model", "model")  # the default variant's file names in diffusers and transformers folders
MODEL_FILES = (".json", ".txt", ".model", ".safetensors", ".jinja")  # what is copied from S3; no pickle and no code
VARIANTS = ("fp16", "non_ema")  # other weights of the same component, which lie beside the default ones


def local_folder(
    model: str, revision: str | None = None, weights_of: Sequence[str] = ("*",), flag: str = "--model"
) -> Path:
    """Return the local folder of a model, fetching it from S3, or from the Hub if it is a name and not a folder.

    Only configurations, tokenizers and safetensors are fetched: no pickle, no code, and from the Hub only those of the
    components, none of the whole checkpoints that lie beside them in some repositories.

    Args:
        weights_of: the components whose weights are needed; from S3 all come.
        flag: that named the model, for a refusal's sentence.

    Raises:
        UserError: if there is neither such a folder nor such a model.
    """
    if model.startswith(files.S3):
        return _from_s3(model, flag)
    if "://" in files.resolve(model):
        raise UserError(f"{flag} {model}: give a local folder, an s3:// path or a Hub name")
    folder = Path(files.resolve(model))
    if (folder / "model_index.json").is_file():
        return folder
    if (folder / ADAPTERS).is_file():
        raise UserError(f"{flag} {model}: {folder} holds adapters (LoRA), not a model; name the base they belong to")
    if folder.exists() or os.path.isabs(model) or model.count("/") != 1:
        raise UserError(f"{flag} {model}: {folder} has no model_index.json, so it is no diffusers folder")
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    settings = ["model_index.json", "*/*.json", "*/*.txt", "*/*.model"]
    weights = [f"{component}/*.safetensors" for component in weights_of]
    try:
        return Path(
            snapshot_download(
                model,
                revision=revision,
                allow_patterns=settings + weights,
                ignore_patterns=[f"*.{variant}{end}*" for variant in VARIANTS for end in ".-"],
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        offline = "; HF_HUB_OFFLINE=1 is set, so the Hub was not asked" if constants.HF_HUB_OFFLINE else ""
        raise UserError(
            f"{flag} {model}: neither a local folder nor a reachable Hub name ({type(error).__name__}{offline})"
        ) from error


def _from_s3(model: str, flag: str, wanted: str = INDEX) -> Path:
    """Copy a folder on S3 to this node's disk, once for what its files are now, and return the copy.

    Args:
        wanted: the file that a model, or adapters, are known by.

    Raises:
        UserError: in one line, if it is none, or could not be copied.
    """
    source = files.resolve(model)
    stamps = [stamp for stamp in files.stamps(source) if stamp[0].endswith(MODEL_FILES)]
    names = [name for name, _, _ in stamps]
    if wanted not in names:
        adapters = "adapters (LoRA), not a model; name the base they belong to"
        model_or = adapters if ADAPTERS in names else "no diffusers model"
        raise UserError(f"{flag} {model}: holds {model_or if wanted == INDEX else f'no {wanted}: no LoRA result'}")
    places = {name: files.inside(source, name) for name in names}

    def fill(folder: Path) -> None:
        try:
            for name, place in places.items():
                files.copy(place, str(folder / name))
        except OSError as error:
            raise UserError(f"{flag} {model}: could not be copied to this node ({files.reason(error)})") from error

    content = hashlib.sha256(repr((source, stamps)).encode()).hexdigest()
    size = sum(size for _, size, _ in stamps)
    return staged_once(None, f"model-{content[:32]}", size, source, fill, setting="TMPDIR")


@dataclass(frozen=True)
class Model:
    """A model by its name and commit: what is sent to other nodes, where the driver's own folder may not exist."""

    name: str
    revision: str | None = None

    def folder(self, weights_of: Sequence[str] = ("*",), flag: str = "--model") -> Path:
        """Return its folder on this node, fetched if need be; flag is that which named it."""
        return local_folder(self.name, self.revision, weights_of, flag)

    def pinned(self, weights_of: Sequence[str] = ("*",)) -> Model:
        """Return the same model at the commit its revision stands for now, so that every node loads the same one."""
        folder = self.folder(weights_of)
        return Model(self.name, folder.name if folder.parent.name == "snapshots" else self.revision)


def adapters_folder(flag: str, path: str) -> Path:
    """Return the local folder of a LoRA result, fetching it if it is on S3.

    Raises:
        UserError: naming the flag, if there are no adapters in safetensors.
    """
    if path.startswith(files.S3):
        return _from_s3(path, flag, ADAPTERS)
    folder = Path(files.resolve(path))
    if not (folder / ADAPTERS).is_file():
        raise UserError(f"{flag} {path}: {folder} has no {ADAPTERS}, so it is no LoRA result")
    return folder


def holds_adapters(path: str) -> bool:
    """Say whether a folder, local or on S3, is a LoRA result."""
    place = files.resolve(path)
    return not place.startswith(files.HUB) and files.is_file(files.join(place, ADAPTERS))


def shapes(path: Path) -> dict[str, list[int]]:
    """Read the names and shapes of the tensors of a safetensors file; no values.

    Raises:
        UserError: if it is none.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            return {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from error


def component_config(folder: Path, name: str) -> dict[str, Any]:
    """Read the configuration of one component of a diffusers folder, or {} where it has none."""
    for file in ("config.json", "scheduler_config.json", "tokenizer_config.json"):
        path = folder / name / file
        if path.is_file():
            return files.read_json(str(path))
    return {}


def fingerprint(folder: Path, name: str) -> str:
    """Hash one component's settings and default weights; equal fingerprints mean equal outputs.

    Keys that only record where or with which version a component was saved do not count.

    Raises:
        UserError: as default_weights does.
    """
    settings = {
        k: v for k, v in component_config(folder, name).items() if not k.startswith("_") and not k.endswith("_version")
    }
    digest = hashlib.sha256(repr(sorted(settings.items())).encode())
    for path in default_weights(folder, name):
        digest.update(bytes.fromhex(files.sha256(str(path))))
    return digest.hexdigest()


def default_weights(folder: Path, name: str) -> list[Path]:
    """List one component's default weights, their headers read.

    Raises:
        UserError: if there are no safetensors weights, or what is named so is something else, a pickle for one.
    """
    weights = opened_weights(folder / name)
    if not weights:
        raise UserError(f"{folder / name}: no safetensors weights; pickled weights are not loaded")
    for path in weights:
        shapes(path)
    return weights


def opened_weights(part: Path) -> list[Path]:
    """List the safetensors files of a component's folder that its class opens by default; none may be there."""
    return sorted(
        path
        for path in part.glob("*.safetensors")
        if path.name.split(".")[0].split("-")[0] in WEIGHTS and not _is_variant(path)
    )


def _is_variant(weights: Path) -> bool:
    """Tell model.fp16.safetensors and its like, whole or in parts (model.fp16-00001-of-00002)."""
    return any(part.split("-")[0] in VARIANTS for part in weights.name.split("."))
