"""What a model's files state outright and this project refuses, told without the libraries that would open them.

Importing these takes most of the CPU of a refusal. What a file leaves to the defaults of its class is looked at
afterwards, with them: components.py, schedules.py, weight_files.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.base import models, weight_names
from infra.base.errors import UserError
from pipelines.latents import components, schedules
from pipelines.latents.components import POSITIONS
from pipelines.latents.kinds_known import FLOW_SCHEDULERS, KINDS
from pipelines.latents.network_checks import NETWORK_CHECKS
from pipelines.latents.weight_marks import hint_of, refusal, refuse_adapters, refuse_without_words

MARKS = (".base_layer.", ".lora_A.", ".lora_B.", "_orig_mod.")  # in names that no class has
WRAPPED = "module."  # in front of all names of a wrapped network


class _UnstatedError(KeyError):
    """A setting is left to its class's default."""


class _Stated(dict[str, Any]):
    """The settings that a part's file has."""

    def __missing__(self, name: str) -> Any:
        raise _UnstatedError(name)


def refuse(folder: Path, flag: str = "--model") -> None:
    """Refuse what a folder's files themselves say that this project does not take; for the kinds that are trained.

    Raises:
        UserError: in the sentences of components.py, schedules.py and weight_files.py.
    """
    name = components.read_index(folder, flag)["_class_name"]
    if name not in KINDS:
        return
    components.check_classes(folder, name, flag)
    for check in NETWORK_CHECKS:
        with contextlib.suppress(_UnstatedError, TypeError):  # of these the classes' own check tells
            check(folder, name, flag, _stated)
    _refuse_schedule(folder, name, flag)
    _refuse_lengths(folder, name, flag)
    for part, (library, _) in components.parts_of(folder).items():
        if library in components.LIBRARIES and (folder / part).is_dir():
            refuse_adapters(folder, part, flag)
            weights = _weights(folder / part)
            _refuse_names(weights, folder, part, flag)
            if weights:  # a dry run counts settings alone, without weights and words
                refuse_without_words(folder, part, flag)


def _stated(folder: Path, part: str) -> Mapping[str, Any]:
    return _Stated(models.component_config(folder, part))


def _refuse_lengths(folder: Path, name: str, flag: str) -> None:
    for part in KINDS[name].parts:
        encoder = part.replace("tokenizer", "text_encoder")
        if part.startswith("tokenizer") and KINDS[name].sized != encoder:
            most = models.component_config(folder, encoder).get(POSITIONS)
            length = models.component_config(folder, part).get("model_max_length")
            if isinstance(most, int) and isinstance(length, int):
                components.refuse_length(folder, part, length, most, flag)


def _refuse_schedule(folder: Path, name: str, flag: str) -> None:
    settings = models.component_config(folder, "scheduler")
    kind = components.parts_of(folder).get("scheduler", ("", ""))[1]
    where = f"{flag} {folder}/{schedules.FILE}"
    if KINDS[name].parts["scheduler"] != FLOW_SCHEDULERS:
        schedules.refuse_other_noise(settings, kind, where)
    elif "use_flow_sigmas" in settings or kind in schedules.FLOW_MATCH_SCHEDULERS:
        schedules.refuse_other_flow(settings, kind, where)


def _weights(part: Path) -> list[Path]:
    return sorted(path for path in part.iterdir() if weight_names.variant(path.name) == "")


def _refuse_names(weights: Sequence[Path], folder: Path, part: str, flag: str) -> None:
    """Refuse weights with names that no class has: of a LoRA, or of a wrapper around a network."""
    kind = components.parts_of(folder)[part][1]
    for path in weights:
        odd = [name for name in models.shapes(path) if name.startswith(WRAPPED) or any(mark in name for mark in MARKS)]
        if odd:
            raise UserError(refusal(f"{flag} {path}", kind, {"it holds, beside its own,": odd}, hint_of(odd)))
