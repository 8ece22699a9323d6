"""Hand a run's result on to the Hub: its files, and its card with lines that open it there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from hashlib import sha256

from infra.base import composed, files, hub, result_files
from training.settings.config import TrainConfig

HERE = "Run this in the folder where this card lies:"  # on a card, before its lines of Python
ANYWHERE = "These lines draw with it:"
SETTINGS = ("model_index.json", "config.json")  # of a pipeline and its parts, as diffusers writes them
OPENED_FROM = "_name_or_path"


def push(result: str, config: TrainConfig) -> str:
    """Send a result, local or on S3; returns a line that says where it is.

    Its settings name paths of this machine. On the Hub, card and records have the last part of each alone.
    """
    assert config.push_to_hub is not None
    names = [name for name, _, _ in files.stamps(result)]
    facts = result_files.read_facts(result)
    text = files.read_bytes(files.join(result, hub.CARD)).decode()
    card = on_hub(text, config.push_to_hub, config.model, hub.local_paths(facts["config"]))
    written = {hub.CARD: card.encode()} | _renamed(result, [name for name in names if name.endswith(SETTINGS)])
    named = facts.get("files", {})
    for name in named.keys() & written.keys():  # whoever downloads the result compares its files with these
        named[name] |= {"bytes": len(written[name]), "sha256": sha256(written[name]).hexdigest()}
    facts = hub.settings_without_folders(facts)
    written[result_files.FACTS] = (json.dumps(facts, indent=2, default=str) + "\n").encode()
    return hub.push(config.push_to_hub, "model", result, names, written)


def _renamed(result: str, names: Iterable[str]) -> dict[str, bytes]:
    """Write those settings of parts anew that say from which folder of this machine the part was opened."""
    changed = {}
    for name in names:
        settings = files.read_json(files.join(result, name))
        where = settings.get(OPENED_FROM) if isinstance(settings, dict) else None
        if list(hub.local_paths(where)):
            settings[OPENED_FROM] = hub.settings_without_folders(where)
            changed[name] = (json.dumps(settings, indent=2) + "\n").encode()
    return changed


def on_hub(text: str, repo: str, model: str, paths: Iterable[str]) -> str:
    """Write a card's lines as they run on any machine: the result by its name on the Hub, and so the base.

    Args:
        text: the card as it lies in the result.
        model: the base as --model named it, which may be a folder of this machine.
        paths: of this machine, that the card may name.
    """
    text = text.replace(HERE, ANYWHERE).replace('"."', f'"{repo}"')
    single = rf"from_single_file\(\"([\w.-]+)\", config=\"{re.escape(repo)}\"\)"
    text = re.sub(single, rf'from_single_file("https://huggingface.co/{repo}/blob/main/\1", config="{repo}")', text)
    base = re.search(r"^base_model: (\S+)$", text, re.MULTILINE)
    if base and composed.split(model)[0] is None:
        text = text.replace(f'"{files.local(model)}"', f'"{base[1]}"')
    return hub.without_folders(text, paths)
