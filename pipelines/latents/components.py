"""What a diffusers folder is made of: its parts, compared with their kind's entry, and the settings that they need.

Nothing here reads a weight. Settings are read as the libraries read them: by the class that opens them, its defaults
filled in. `pipelines/latents/weight_files.py` compares the weights.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from infra.base import models
from infra.base.errors import UserError
from pipelines.latents.kinds_known import KINDS, VAE
from pipelines.latents.network_checks import NETWORK_CHECKS

INDEX = models.INDEX
POSITIONS = "max_position_embeddings"  # of a text encoder
LIBRARIES = ("diffusers", "transformers")  # whose classes open parts


def library(name: str) -> Any:
    """Import one of LIBRARIES, which takes seconds: only where a class of its is looked at."""
    from infra.base import torchvision_guard  # noqa: F401  (before both)

    if name == "diffusers":
        import diffusers

        return diffusers
    import transformers

    return transformers


def read_index(folder: Path, flag: str = "--model") -> dict[str, Any]:
    """Read what a diffusers folder is made of.

    Raises:
        UserError: if its pipeline is code of its own, or none that diffusers has.
    """
    path = folder / INDEX
    index = models.read_settings(path)
    name = index.get("_class_name") if isinstance(index, dict) else None
    if isinstance(name, list):
        raise UserError(
            f"{flag} {path}: its pipeline is code of its own ({', '.join(map(str, name))}), which is not run; name a "
            "class of diffusers as _class_name"
        )
    if not isinstance(name, str) or not (name in KINDS or _is_pipeline(name)):
        raise UserError(f"{flag} {path}: its _class_name is {name!r}, which diffusers does not have")
    return index


def _is_pipeline(name: str) -> bool:
    """Say whether diffusers has a pipeline of this name; its class of all pipelines is none."""
    base = library("diffusers").DiffusionPipeline
    kind = getattr(library("diffusers"), name, None)
    return isinstance(kind, type) and issubclass(kind, base) and kind is not base


def parts_of(folder: Path) -> dict[str, tuple[str, str]]:
    """Return library and class of each part that a folder's index names; empty places are left out."""
    named = {part: value for part, value in read_index(folder).items() if isinstance(value, list) and len(value) == 2}
    return {part: (library, kind) for part, (library, kind) in named.items() if library and kind}


def class_of(folder: Path, part: str) -> Any:
    """Return the class that opens a part of a diffusers folder.

    Raises:
        UserError: naming it, if diffusers and transformers have none of this name, or the folder has no such part.
    """
    origin, name = parts_of(folder).get(part, ("", ""))
    found = getattr(library(origin), name, None) if origin in LIBRARIES else None
    if found is None:
        what = f"{origin}.{name}, of neither diffusers nor transformers" if name else "empty"
        raise UserError(f"{folder / INDEX}: its {part} is {what}; give a folder that names a class of theirs")
    return found


def settings(folder: Path, part: str) -> dict[str, Any]:
    """Read a part's settings as its class does, with the defaults for what its file leaves out.

    Raises:
        UserError: naming the file, if there is none or the class refuses it.
    """
    opened_by = class_of(folder, part)
    path = folder / part
    try:
        if issubclass(opened_by, library("transformers").PreTrainedModel):
            return opened_by.config_class.from_pretrained(path).to_dict()
        return defaults(opened_by) | opened_by.load_config(folder, subfolder=part)
    except Exception as error:  # the libraries raise several types of their own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path}: its settings cannot be read as those of a {opened_by.__name__} ({reason})") from error


def defaults(kind: type) -> dict[str, Any]:
    """Return the defaults of a class's settings, as its file would have them."""
    given = inspect.signature(kind.__init__).parameters.values()  # type: ignore[misc]
    named = {one.name: one.default for one in given if one.default is not inspect.Parameter.empty}
    return json.loads(json.dumps(named, default=str))  # a default may be a tuple where a file has a list


def absent_optional(folder: Path) -> list[str]:
    """Name the parts that the index names, that lie in no folder, and that the pipeline can do without.

    A part that its constructor has a default for is not among them: diffusers 0.42.1 opens it although None is given.
    """
    name = read_index(folder)["_class_name"]
    opened_by = getattr(library("diffusers"), name)
    optional = {*opened_by._optional_components, *(KINDS[name].optional if name in KINDS else ())}
    parameters = inspect.signature(opened_by.__init__).parameters
    given = {part for part, one in parameters.items() if one.default is inspect.Parameter.empty}
    return [part for part in parts_of(folder) if part in optional & given and not (folder / part).is_dir()]


def check_settings(folder: Path, flag: str = "--model") -> None:
    """Refuse a folder with a part of a class or with settings that this project does not know; no weights are read.

    A pipeline that only generate.py takes has no table; there the parts' classes must be the libraries' own.

    Raises:
        UserError: in one sentence that names class and file.
    """
    name = read_index(folder, flag)["_class_name"]
    check_classes(folder, name, flag)
    if name in KINDS:
        for check in NETWORK_CHECKS:
            try:
                check(folder, name, flag, settings)
            except TypeError as error:  # null or text where a number belongs
                raise UserError(
                    f"{flag} {folder}: a setting of its {KINDS[name].network} or {VAE} is of another type than a "
                    f"{name} has ({error}); restore its config.json from a copy"
                ) from error
        _check_tokenizers(folder, name, flag)


def check_classes(folder: Path, name: str, flag: str) -> None:
    """Refuse a folder with a part of another class than a pipeline's, without settings, or quantised; see table KINDS.

    Raises:
        UserError: in one sentence that names class and file.
    """
    known = KINDS[name].parts if name in KINDS else {}
    named = parts_of(folder)
    needed = [part for part in known if part not in KINDS[name].optional and not part.startswith("tokenizer")]
    missing = next((part for part in needed if part not in named), None)  # a dry run's settings need no words
    if missing:
        raise UserError(f"{flag} {folder / INDEX}: names no {missing}, which a {name} needs here")
    for part, (origin, kind) in named.items():
        _refuse_other_library(origin, f"{flag} {folder / INDEX}: its {part} is {origin}.{kind}")
        is_absent = not (folder / part).is_dir()
        if is_absent and part in absent_optional(folder):
            continue
        if part not in known and not (is_absent and part in getattr(library("diffusers"), name)._optional_components):
            continue
        if part in known and kind not in known[part]:
            raise UserError(
                f"{flag} {folder / INDEX}: its {part} is of class {kind}; in a {name} it must be {_one_of(known[part])}"
            )
        if is_absent:
            raise UserError(f"{flag} {folder}: its {INDEX} names a {part}, and there is no folder {part}")
        _check_part(folder, part, known[part], flag)


def _refuse_other_library(origin: str, where: str) -> None:
    """Refuse a part of another library than LIBRARIES, or a folder of diffusers' pipelines: diffusers would import it.

    Raises:
        UserError: beginning with where, which names file and part.
    """
    if origin not in (*LIBRARIES, "stable_diffusion") and not hasattr(library("diffusers").pipelines, origin):
        raise UserError(f"{where}, of neither diffusers nor transformers; give a folder that names a class of theirs")


def _check_part(folder: Path, part: str, known: tuple[str, ...], flag: str) -> None:
    """Refuse a part that is quantised, or whose own file names another class than the index."""
    own = models.component_config(folder, part)
    file = next((path for path in sorted((folder / part).glob("*config.json")) if path.is_file()), folder / part)
    if own.get("quantization_config"):
        method = own["quantization_config"].get("quant_method", "unknown")
        raise UserError(
            f"{flag} {file}: this {part} is quantised ({method}); give its weights in float16, bfloat16 or float32"
        )
    named = own.get("_class_name")
    if named is not None and named not in known:
        raise UserError(f"{flag} {file}: it is that of a {named}; a {part} must be {_one_of(known)} here")
    if part.startswith("tokenizer"):
        return
    if not own:
        raise UserError(f"{flag} {folder / part}: has no settings (config.json or scheduler_config.json)")


def open_tokenizer(folder: Path, part: str, flag: str = "--model") -> Any:
    """Open a tokenizer by the class that the index names; of a processor of images and words, that of the words.

    Raises:
        UserError: if its files cannot be read.
    """
    opened_by = class_of(folder, part)
    try:
        return words_of(opened_by.from_pretrained(folder / part))
    except Exception as error:  # transformers raises many types, some of them its own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{flag} {folder / part}: cannot be opened as the {opened_by.__name__} that {INDEX} names ({reason})"
        ) from error


def words_of(tokenizer: Any) -> Any:
    """Return a tokenizer, or the one within a processor of images and words."""
    return getattr(tokenizer, "tokenizer", tokenizer)


def _check_tokenizers(folder: Path, name: str, flag: str) -> None:
    """Refuse tokenizers whose tokens, or whose number of them, their text encoders do not have."""
    parts = parts_of(folder)
    for part in [part for part in KINDS[name].parts if part.startswith("tokenizer") and part in parts]:
        if not (folder / part).is_dir():
            continue
        encoder = part.replace("tokenizer", "text_encoder")
        takes = settings(folder, encoder)
        tokenizer = open_tokenizer(folder, part, flag)
        words = takes.get("text_config", takes)["vocab_size"]  # of a language model that sees images too, its text's
        if len(tokenizer) > words:
            raise UserError(
                f"{flag} {folder / part}: has {len(tokenizer)} tokens, and {encoder} has embeddings for "
                f"{words}; give the tokenizer that belongs to it"
            )
        if KINDS[name].templated:
            _check_template(tokenizer, name, f"{flag} {folder / part}")
        if KINDS[name].sized == encoder:
            continue  # its length is chosen, and far below what a language model takes
        if POSITIONS in takes:
            refuse_length(folder, part, tokenizer.model_max_length, takes[POSITIONS], flag)


def refuse_length(folder: Path, part: str, length: int, most: int, flag: str) -> None:
    """Refuse a tokenizer that gives more tokens than its text encoder has places for.

    Raises:
        UserError: naming the file and the number to set.
    """
    if length > most:
        raise UserError(
            f"{flag} {folder / part}/tokenizer_config.json: model_max_length is {_length(length)}, and "
            f"{part.replace('tokenizer', 'text_encoder')} takes {most} tokens; set it to {most}"
        )


def _check_template(tokenizer: Any, name: str, where: str) -> None:
    """Refuse a tokenizer without the chat template that a pipeline puts captions into."""
    if not tokenizer.chat_template:
        raise UserError(
            f"{where}: has no chat template, which a {name} puts captions into; copy chat_template.jinja too"
        )


def _length(tokens: int) -> str:
    """Write a length; transformers takes 10^30 where a file names none."""
    return "not set" if tokens > 10**12 else str(tokens)


def _one_of(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
