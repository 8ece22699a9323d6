"""Hand a run's result on to the Hub: its files, and its card with lines that open it there."""

from __future__ import annotations

import json
import re
from hashlib import sha256

from infra.base import composed, files, hub, result_files
from training.settings.config import TrainConfig

HERE = "Run this in the folder where this card lies:"  # on a card, before its lines of Python
ANYWHERE = "These lines draw with it:"


def push(result: str, config: TrainConfig) -> str:
    """Send a result, local or on S3; returns a line that says where it is."""
    assert config.push_to_hub is not None
    names = [name for name, _, _ in files.stamps(result)]
    text = files.read_bytes(files.join(result, hub.CARD)).decode()
    card = on_hub(text, config.push_to_hub, config.model).encode()
    facts = result_files.read_facts(result)
    if hub.CARD in facts.get("files", {}):  # whoever downloads the result compares its files with these
        facts["files"][hub.CARD] |= {"bytes": len(card), "sha256": sha256(card).hexdigest()}
    written = {hub.CARD: card, result_files.FACTS: (json.dumps(facts, indent=2, default=str) + "\n").encode()}
    return hub.push(config.push_to_hub, "model", result, names, written)


def on_hub(text: str, repo: str, model: str) -> str:
    """Write a card's lines as they run on any machine: the result by its name on the Hub, and so the base.

    Args:
        text: the card as it lies in the result.
        model: the base as --model named it, which may be a folder of this machine.
    """
    text = text.replace(HERE, ANYWHERE).replace('"."', f'"{repo}"')
    single = rf"from_single_file\(\"([\w.-]+)\", config=\"{re.escape(repo)}\"\)"
    text = re.sub(single, rf'from_single_file("https://huggingface.co/{repo}/blob/main/\1", config="{repo}")', text)
    base = re.search(r"^base_model: (\S+)$", text, re.MULTILINE)
    if base and composed.split(model)[0] is None:
        text = text.replace(f'"{files.local(model)}"', f'"{base[1]}"')
    return text
