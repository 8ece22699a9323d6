"""Which tensors of a part's files the class that opens them takes, told by the libraries themselves.

Only headers of safetensors files are read. A class of transformers opens tensors of the right shapes that take no
memory, and says what it missed; a class of diffusers is built on the meta device and renames old names itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import torch
from safetensors import safe_open

from infra.base import (
    models,
    named_files,
    result_files,
    torchvision_guard,  # noqa: F401  (before diffusers)
    weight_names,
    weight_shards,
)
from infra.base.errors import UserError
from pipelines.latents import components, schedules, stated, weight_marks

import transformers  # isort: skip
from diffusers import ModelMixin  # isort: skip
from diffusers.models.modeling_utils import no_init_weights  # isort: skip

QUANTISED = ("I8", "U8", "F8_E4M3", "F8_E5M2")  # as safetensors names types


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What a class takes of its files: each of its tensors by name, and where it lies."""

    kind: str  # the class
    tensors: Mapping[str, tuple[Path, str]]  # of the class, to a file and the name there
    tied: Mapping[str, str]  # of its tensors, those that may be others of them
    missing: Sequence[str]
    unexpected: Sequence[str]
    mismatched: Sequence[str]  # with both shapes, in words


def check_folder(folder: Path, parts: Collection[str], flag: str = "--model") -> None:
    """Refuse a model that would be opened otherwise than it was made: its parts' classes, settings and weights.

    Args:
        parts: those whose weights are there to be looked at; the settings of all are.

    Raises:
        UserError: in one sentence that names class and file.
    """
    stated.refuse(folder, flag)
    components.check_settings(folder, flag)
    schedules.check_schedule(folder, flag)
    check_weights(folder, parts, flag)


def check_weights(folder: Path, parts: Collection[str], flag: str = "--model") -> None:
    """Compare the weights of a diffusers folder's parts with the classes that open them.

    Raises:
        UserError: naming the file and the tensors that are missing, of another shape or unknown to the class.
    """
    named_files.refuse(result_files.problems(str(folder), parts=tuple(parts)))
    named = components.parts_of(folder)
    for part in parts:
        if part in named and named[part][0] in components.LIBRARIES and (folder / part).is_dir():
            weight_marks.refuse_adapters(folder, part, flag)
            opened = open_headers(folder, part)
            _refuse(opened, folder, part, flag)
            _refuse_quantised(opened, flag)
            weight_marks.refuse_without_words(folder, part, flag)


def _refuse_quantised(opened: Opened, flag: str) -> None:
    """Refuse weights in 8 bits whose settings do not say how they were made: cast, they would be something else."""
    for path in sorted({path for path, _ in opened.tensors.values()}):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                kind = file.get_slice(name).get_dtype()
                if kind in QUANTISED:
                    raise UserError(
                        f"{flag} {path}: {name} is stored as {kind}; give the weights in float16, bfloat16 or float32"
                    )


def opened_parts(folder: Path) -> list[str]:
    """Name the parts that have weights: networks of classes that diffusers or transformers has, with a folder."""
    kinds = {
        part: getattr(components.library(library), kind, None)
        for part, (library, kind) in components.parts_of(folder).items()
        if library in components.LIBRARIES and (folder / part).is_dir()
    }
    networks = ModelMixin, transformers.PreTrainedModel
    return sorted(part for part, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, networks))


def _refuse(opened: Opened, folder: Path, part: str, flag: str) -> None:
    odd = {
        "it lacks": opened.missing,
        "it holds, beside its own,": opened.unexpected,
        "it has in another shape": opened.mismatched,
    }
    if not any(odd.values()):
        return
    names = ", ".join(path.name for path in _files(folder, part)[: weight_marks.SHOWN])
    hint = weight_marks.hint_of([*opened.unexpected, *opened.missing])
    raise UserError(weight_marks.refusal(f"{flag} {folder / part}/{names}", opened.kind, odd, hint))


def open_headers(folder: Path, part: str) -> Opened:
    """Let the class that opens a part say which tensors of its files it takes; no weight is read.

    Raises:
        UserError: if a file is missing, not readable, or the class cannot be built of its settings.
    """
    opened_by = components.class_of(folder, part)
    found = {name: (path, shape) for path in _files(folder, part) for name, shape in models.shapes(path).items()}
    shapes = {name: tuple(shape) for name, (_, shape) in found.items()}
    open_by = _open_transformers if issubclass(opened_by, transformers.PreTrainedModel) else _open_diffusers
    try:
        names, tied, missing, unexpected, mismatched = open_by(folder, part, opened_by, shapes)
    except UserError:
        raise
    except Exception as error:  # the libraries raise several types of their own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{folder / part}: a {opened_by.__name__} cannot be built of its settings ({reason})"
        ) from error
    return Opened(
        kind=opened_by.__name__,
        tensors={name: (found[inside][0], inside) for name, inside in names.items()},
        tied=tied,
        missing=missing,
        unexpected=unexpected,
        mismatched=mismatched,
    )


Answer = tuple[dict[str, str], dict[str, str], list[str], list[str], list[str]]  # names, tied; the others


def _open_transformers(folder: Path, part: str, kind: Any, shapes: Mapping[str, tuple[int, ...]]) -> Answer:
    """Open tensors without contents, which tells what is missing; then tensors that tell where each one went.

    Those hold their own number, once, spread over their shape, and so take no memory.
    """
    empty = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    _, told = _open_state(folder, part, kind, empty, device_map="meta")
    mismatched = sorted(
        f"{name} is {_size(here)}, not {_size(wanted)}" for name, here, wanted in told["mismatched_keys"]
    )
    missing = sorted(told["missing_keys"])
    unexpected = sorted(told["unexpected_keys"])
    if missing or mismatched:  # the libraries would make what is missing anew, of its whole size
        return {}, {}, missing, unexpected, mismatched
    names = list(shapes)
    spread = {name: torch.full((), float(place)).expand(shapes[name]) for place, name in enumerate(names)}
    network, _ = _open_state(folder, part, kind, spread)
    kept = network.state_dict().items()
    taken = {name: names[int(tensor.flatten()[0])] for name, tensor in kept if tensor.numel()}
    tied = getattr(network, "_tied_weights_keys", None)  # where a file holds both, they are compared by their values
    return taken, dict(tied or {}), missing, unexpected, mismatched


def _open_state(folder: Path, part: str, kind: Any, state: Mapping[str, torch.Tensor], **more: Any) -> Any:
    models.quiet()
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # it would repeat in many lines what it returns
    try:
        return kind.from_pretrained(
            None,
            config=kind.config_class.from_pretrained(folder / part),
            state_dict=state,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **more,
        )
    finally:
        transformers.utils.logging.set_verbosity(verbosity)


def _open_diffusers(folder: Path, part: str, kind: Any, shapes: Mapping[str, tuple[int, ...]]) -> Answer:
    models.quiet()
    with accelerate.init_empty_weights(), no_init_weights():
        network = kind.from_config(kind.load_config(folder, subfolder=part))
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    renamed = {name: name for name in shapes}
    if len(_files(folder, part)) == 1:  # diffusers knows the old names in whole files only
        network._fix_state_dict_keys_on_load(renamed)
    ignored = kind._keys_to_ignore_on_load_unexpected or ()
    unexpected = [name for name in renamed if name not in wanted and not any(re.search(one, name) for one in ignored)]
    mismatched = [
        f"{name} is {_size(shapes[renamed[name]])}, not {_size(shape)}"
        for name, shape in wanted.items()
        if name in renamed and shapes[renamed[name]] != shape
    ]
    missing = sorted(wanted.keys() - renamed.keys())
    taken = {name: renamed[name] for name in wanted if name in renamed}
    return taken, {}, missing, sorted(unexpected), sorted(mismatched)


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def _files(folder: Path, part: str) -> list[Path]:
    """List the files of a part that its library opens."""
    stem = weight_names.STEMS[components.parts_of(folder)[part][0] == "transformers"]
    return weight_shards.opened_files(folder / part, stem)
