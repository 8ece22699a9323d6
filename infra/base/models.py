"""Where models come from: a diffusers folder or a Hub name, as a local folder, and the fingerprints of its parts."""

from __future__ import annotations

import codecs
import functools
import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from infra.base import composed, files, model_sources, node_cache, pointers, weight_names
from infra.base.errors import UserError


def quiet() -> None:
    """Keep the libraries' progress bars, one per loaded file, out of the jobs' logs."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


INDEX = model_sources.INDEX
ADAPTERS = model_sources.ADAPTERS
opened_weights = model_sources.opened_weights


def local_folder(
    model: str, revision: str | None = None, weights_of: Sequence[str] = ("*",), flag: str = "--model"
) -> Path:
    """Return the local folder of a model, fetching it from S3, or from the Hub if it is a name and not a folder.

    A checkpoint in one file, and a network alone, are completed by their base, which BASE+FILE names, or their kind.
    Only configurations, tokenizers and safetensors are fetched: no pickle, no code, and from the Hub only those of the
    components, none of the whole checkpoints that lie beside them in some repositories.

    Args:
        revision: on the Hub, of the model, or of its base where two are named.
        weights_of: the components whose weights are needed; from S3 all come.
        flag: that named the model, for a refusal's sentence.

    Raises:
        UserError: if there is neither such a folder nor such a model.
    """
    base, added = composed.split(model)
    path = model_sources.fetch(added, None if base else revision, weights_of, flag)
    if base is None and composed.is_whole(path):
        return _with_default_names(path)
    where = f"{flag} {added}"
    base_name = base or composed.base_of(path, where)
    settings = _base_folder(base_name, base is None, revision if base else None, (), flag, where)
    parts = composed.parts_added(path, settings, where)
    needed = [name.parent.name for name in settings.glob("*/config.json")] if "*" in weights_of else weights_of
    needed = [part for part in needed if part not in parts]
    whole = _base_folder(base_name, base is None, revision if base else None, needed, flag, where)
    guessed = _guessed(settings, base, parts)
    _say_once(f"{where}: gives {', '.join(parts)}; all else comes from {base_name}{guessed}{composed.left_out(path)}")
    return composed.compose(path, parts, whole, where)


def _guessed(settings: Path, base: str | None, parts: Sequence[str]) -> str:
    """Say what a base that nobody named predicts: a UNet's own files do not tell."""
    predicts = component_config(settings, "scheduler").get("prediction_type")
    if base or "scheduler" in parts or "unet" not in parts or not predicts:
        return ""
    return f", which predicts {predicts}; where the unet predicts otherwise, name its base as BASE+"


def _base_folder(
    base: str, guessed: bool, revision: str | None, weights_of: Sequence[str], flag: str, where: str
) -> Path:
    """Return the folder of a base; one that nobody named may be out of reach, and then another way is told."""
    try:
        return local_folder(base, revision, weights_of, flag)
    except UserError as error:
        if not guessed:
            raise
        raise UserError(
            f"{where}: is completed by {base}, which is neither in the local cache nor reachable; name a local folder "
            "of this model before it, as BASE+FILE"
        ) from error


def _with_default_names(folder: Path) -> Path:
    """Return the folder, or one of links to its files where a part's weights exist only as a variant (fp16)."""
    without = model_sources.without_weights(folder)
    kinds = {name: weight_names.only_variant(folder / name, os.listdir(folder / name)) for name in without}
    parts = {name: kind for name, kind in kinds.items() if kind}
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


def with_default_weights(part: Path) -> Path:
    """Return a part's folder, or one of links to its files where its weights exist only as a variant (fp16)."""
    kind = weight_names.only_variant(part, os.listdir(part)) if part.is_dir() else None
    if kind is None:
        return part
    _say_once(f"{part}: has no weights but those of the variant {kind}, which are taken")
    return node_cache.linked_once(weight_names.default_contents(part, kind))


@functools.cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


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
        base, added = composed.split(self.name)
        path = model_sources.fetch(added, None if base else self.revision, weights_of, "--model")
        snapshot = path.parent if path.suffix == model_sources.SINGLE else path  # a single file lies in its snapshot
        commit = snapshot.name if snapshot.parent.name == "snapshots" else None
        if base is None and composed.is_whole(path):
            return Model(self.name, commit or self.revision)
        own = Model(base or composed.base_of(path, f"--model {added}"), self.revision if base else None).pinned(())
        pinned = f"{added}@{commit}" if commit else added
        return Model(f"{own.name}{composed.SIGN}{pinned}", own.revision)


def adapters_folder(flag: str, path: str) -> Path:
    """Return the local folder of a LoRA result, or one of a link to a LoRA file; what is on S3 is fetched.

    Raises:
        UserError: naming the flag, if there are no adapters in safetensors.
    """
    peft = files.join(files.resolve(path), weight_names.PEFT)
    if not holds_adapters(path) and files.is_file(peft):
        path = peft
    if path.endswith(model_sources.SINGLE):  # as other trainers and sites name theirs
        settings = files.join(path.rpartition("/")[0] or ".", weight_names.ADAPTERS)
        is_peft = path.rpartition("/")[2] == weight_names.PEFT and files.is_file(files.resolve(settings))
        beside = {weight_names.ADAPTERS: _adapters_file(flag, settings)} if is_peft else {}
        return node_cache.linked_once({ADAPTERS: _adapters_file(flag, path), **beside})
    if path.startswith(files.S3):
        return model_sources.folder_from_s3(path, flag, ADAPTERS)
    folder = Path(files.resolve(path))
    result = folder / "result"
    if not (folder / ADAPTERS).is_file() and (result / ADAPTERS).is_file():
        raise UserError(f"{flag} {path}: is the folder of a training run; give its result, {result}")
    if not (folder / ADAPTERS).is_file():
        raise UserError(
            f"{flag} {path}: {folder} has no {ADAPTERS}, so it is no LoRA result; give that, or a LoRA's .safetensors"
        )
    return folder


def _adapters_file(flag: str, path: str) -> Path:
    if path.startswith(files.S3):
        return model_sources.file_from_s3(path, flag)
    file = Path(files.resolve(path))
    if not file.is_file():
        raise UserError(f"{flag} {path}: there is no such file")
    return file


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
        with safe_open(path, framework="np") as opened:  # torch's own would load torch
            return {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        pointers.refuse(path)
        raise UserError(f"{path}: not a readable safetensors file ({error})") from error


def read_settings(path: Path) -> Any:
    """Read a file of settings that diffusers or transformers will read, too.

    Raises:
        UserError: if it is not valid JSON, or has a byte order mark, which they do not take.
    """
    if path.read_bytes().startswith(codecs.BOM_UTF8):
        raise UserError(
            f"{path}: begins with a byte order mark, which diffusers and transformers do not read; save it again as "
            "UTF-8 without one"
        )
    return files.read_json(str(path))


def component_config(folder: Path, name: str) -> dict[str, Any]:
    """Read the configuration of one component of a diffusers folder, or {} where it has none."""
    for file in ("config.json", "scheduler_config.json", "tokenizer_config.json"):
        path = folder / name / file
        if path.is_file():
            settings = read_settings(path)
            if not isinstance(settings, dict):
                raise UserError(f"{path}: is no JSON object; restore it from a copy")
            return settings
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


def own_memory(network: Any) -> Any:
    """Copy a network's tensors out of the files' memory maps, and return it.

    A tensor in a map lies where the file's header puts it, and CPU kernels sum in an order that depends on its address.
    The same weights would give other last bits from a file whose header is some bytes longer.
    """
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.clone()
    return network


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
