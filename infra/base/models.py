"""Where models come from: a diffusers folder or a Hub name, as a local folder, and the fingerprints of its parts."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from infra.base import files, node_cache, weight_names
from infra.base.errors import UserError


def quiet() -> None:
    """Keep the libraries' progress bars, one per loaded file, out of the jobs' logs."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


INDEX = "model_index.json"  # diffusers' name for what a pipeline is made of
ADAPTERS = "pytorch_lora_weights.safetensors"  # and for LoRA weights
MODEL_FILES = (".json", ".txt", ".model", ".safetensors", ".jinja")  # what is copied from S3; no pickle and no code


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
    return _with_default_names(_as_it_lies(model, revision, weights_of, flag))


def _as_it_lies(model: str, revision: str | None, weights_of: Sequence[str], flag: str) -> Path:
    """Return the local folder of a model, its files as whoever made it named them."""
    if model.startswith(files.S3):
        return _from_s3(model, flag)
    if "://" in files.resolve(model):
        raise UserError(f"{flag} {model}: give a local folder, an s3:// path or a Hub name")
    folder = Path(files.resolve(model))
    if (folder / INDEX).is_file():
        return folder
    if (folder / ADAPTERS).is_file():
        raise UserError(f"{flag} {model}: {folder} holds adapters (LoRA), not a model; name the base they belong to")
    if folder.exists() or os.path.isabs(model) or model.count("/") != 1:
        raise UserError(f"{flag} {model}: {folder} has no {INDEX}, so it is no diffusers folder")
    return _from_hub(model, revision, weights_of, flag)


def _from_hub(model: str, revision: str | None, weights_of: Sequence[str], flag: str) -> Path:
    """Fetch a model from the Hub: its default weights, and another variant of parts that have no default ones."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    settings = [INDEX, "*/*.json", "*/*.txt", "*/*.model"]
    weights = [f"{part}/*.safetensors" for part in weights_of]
    variants = [f"*.{kind}{end}*" for kind in (*weight_names.PRECISIONS, "non_ema") for end in ".-"]
    try:
        folder = Path(
            snapshot_download(model, revision=revision, allow_patterns=settings + weights, ignore_patterns=variants)
        )
        without = [part for part in _without_weights(folder) if part in weights_of or "*" in weights_of]
        if without:
            others = [f"{part}/*.safetensors" for part in without]
            snapshot_download(model, revision=revision, allow_patterns=settings + others)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        offline = "; HF_HUB_OFFLINE=1 is set, so the Hub was not asked" if constants.HF_HUB_OFFLINE else ""
        raise UserError(
            f"{flag} {model}: neither a local folder nor a reachable Hub name ({type(error).__name__}{offline})"
        ) from error
    return folder


def _without_weights(folder: Path) -> list[str]:
    """Name the parts that are networks, by their config.json, and have no default weights."""
    parts = sorted(path.parent for path in folder.glob("*/config.json"))
    return [part.name for part in parts if not opened_weights(part)]


def _with_default_names(folder: Path) -> Path:
    """Return the folder, or one of links to its files where a part's weights exist only as a variant (fp16)."""
    without = {
        name: weight_names.only_variant(folder / name, os.listdir(folder / name)) for name in _without_weights(folder)
    }
    parts = {name: kind for name, kind in without.items() if kind}
    if not parts:
        return folder
    contents: dict[str, Path | bytes] = {
        str(path.relative_to(folder)): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parts[len(folder.parts)] not in parts
    }
    for name, kind in parts.items():
        inside = weight_names.default_contents(folder / name, kind)
        contents |= {f"{name}/{file}": target for file, target in inside.items()}
        _say_once(f"{folder / name}: has no weights but those of the variant {kind}, which are taken")
    return node_cache.linked_once(contents)


@functools.cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


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
    return node_cache.staged_once(None, f"model-{content[:32]}", size, source, fill, setting="TMPDIR")


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
        raise UserError(_no_weights(folder / name))
    for path in weights:
        shapes(path)
    return weights


def opened_weights(part: Path) -> list[Path]:
    """List the safetensors files of a component's folder that its class opens by default; none may be there."""
    return sorted(path for path in part.glob("*.safetensors") if weight_names.variant(path.name) == "")


def _no_weights(part: Path) -> str:
    """Say that a part has no safetensors, and how pickled weights become such."""
    pickled = (
        sorted(path.name for path in part.iterdir() if path.suffix in weight_names.PICKLES) if part.is_dir() else []
    )
    if not pickled:
        return f"{part}: no safetensors weights; copy the model again with its weights"
    convert = (
        "from diffusers import DiffusionPipeline as P; "
        f"P.from_pretrained('{part.parent}').save_pretrained('{part.parent}-safetensors')"
    )
    return (
        f"{part}: no safetensors weights but {pickled[0]}, and pickled weights are not loaded; convert the model once "
        f'with python -c "{convert}" and give the new folder'
    )
