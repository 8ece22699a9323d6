"""A single file added to a result that was trained without one, and to its card: by kills as by none."""

from __future__ import annotations

from pathlib import Path

from infra.base import files, named_files, result_files

CARD = "README.md"
CARD_PARTIAL = "README.partial"
TABLE = "\n| what | value |\n"  # before which a card names its single file


def add(folder: Path, base: Path, name: str, lora: bool) -> None:
    """Write the single file beside a result's card, and its lines into that; the facts name both before they stand.

    Raises:
        UserError: if the model has no such layout.
    """
    from training.run import exports  # which loads torch

    exports.check(base, lora)
    partials = {f"{name}.safetensors": exports.write_partial(folder, base, name, lora).name}
    card = folder / CARD
    text = card.read_text() if card.is_file() else ""
    if TABLE in text:
        said = exports.say(f"{name}.safetensors", base, lora)
        (folder / CARD_PARTIAL).write_text(text.replace(TABLE, f"{said}{TABLE}", 1))
        files.flush(str(folder / CARD_PARTIAL))
        partials[CARD] = CARD_PARTIAL
    facts = result_files.read_facts(str(folder))
    if "files" in facts:  # not in those of earlier versions
        described = named_files.describe(str(folder), partials.values())
        facts["files"] |= {whole: described[partial] for whole, partial in partials.items()}
        files.write_json(str(folder / result_files.FACTS), facts)
    _take_names(folder, partials)


def finish(folder: Path, name: str) -> None:
    """Give the files their names where a kill came after the facts had named them: each is whole, or none of theirs."""
    partials = {f"{name}.safetensors": f"{name}.partial", CARD: CARD_PARTIAL}
    there = {whole: partial for whole, partial in partials.items() if (folder / partial).is_file()}
    if not there:
        return
    described = result_files.named(str(folder))
    _take_names(
        folder,
        {
            whole: partial
            for whole, partial in there.items()
            if whole in described and files.sha256(str(folder / partial)) == described[whole]["sha256"]
        },
    )


def _take_names(folder: Path, partials: dict[str, str]) -> None:
    for whole, partial in partials.items():
        (folder / partial).replace(folder / whole)
        if whole != CARD:
            print(f"{folder / whole}: the result in one file", flush=True)
    files.flush(str(folder))
