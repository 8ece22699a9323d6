"""What names in weight files tell of how they were saved, and the sentences about files that a class does not take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from infra.base import models, weight_names
from infra.base.errors import UserError

SHOWN = 3  # names in a refusal
VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model", "vocab.txt")
HINTS = (
    ("base_layer", "a LoRA was fused and not unloaded before it was saved: call unload_lora_weights() first"),
    ("lora_", "it holds a LoRA's layers, which have to be fused and unloaded, or saved apart"),
    ("_orig_mod.", "it was saved from a compiled network: save the module inside (network._orig_mod)"),
    ("module.", "it was saved from a wrapped network (DataParallel): save network.module"),
    ("vision_model.", "it is a whole CLIP: save its text model alone"),
)


def hint_of(names: Sequence[str]) -> str:
    """Say what the names of tensors tell of how they were saved; nothing where they tell nothing."""
    named = " ".join(names)
    return next((f"; {words}" for mark, words in HINTS if mark in named), "")


def refusal(where: str, kind: str, odd: Mapping[str, Sequence[str]], hint: str) -> str:
    """Say that files are not the weights of a class.

    Args:
        where: the flag and the files.
        kind: the class.
        odd: what is said of some tensors, and their names.
        hint: what to do about it.
    """
    reasons = [
        f"{words} {len(names)} tensor{'s' if len(names) > 1 else ''} ({some(names)})"
        for words, names in odd.items()
        if names
    ]
    return f"{where}: not the weights of the {kind} that {models.INDEX} names: {'; '.join(reasons)}{hint}"


def some(names: Sequence[str]) -> str:
    """Name the first of some tensors, and how many more there are."""
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def refuse_adapters(folder: Path, part: str, flag: str) -> None:
    """Refuse a part with adapters in its folder: transformers loads them too, and no fingerprint would tell.

    Raises:
        UserError: naming the file.
    """
    path = folder / part / weight_names.ADAPTERS
    if path.is_file():
        raise UserError(
            f"{flag} {path}: adapters (PEFT) lie beside the weights of this {part}, and are loaded into them; merge "
            "them into the weights and save these alone, or move the adapters away"
        )


def refuse_without_words(folder: Path, part: str, flag: str) -> None:
    """Refuse a text encoder with weights whose tokenizer has no vocabulary: transformers 5 opens an empty one.

    A folder of settings alone, which a dry run counts, needs no words.

    Raises:
        UserError: naming the tokenizer's folder.
    """
    tokenizer = folder / part.replace("text_encoder", "tokenizer")
    if not part.startswith("text_encoder") or not tokenizer.is_dir():
        return
    if all(weight_names.variant(path.name) is None for path in (folder / part).iterdir()):
        return
    if not any((tokenizer / name).is_file() for name in VOCABULARIES):
        raise UserError(
            f"{flag} {tokenizer}: has none of {', '.join(VOCABULARIES)}, so no words; copy the tokenizer's files again"
        )
