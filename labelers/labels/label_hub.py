"""Hand label sets of a store on to the Hub: beside the store, where it lies there, or alone, with their own card."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from infra.base import files, hub
from pipelines.latents import label_files, store

_CARD = """---
{header}---
# {name}

Label sets of a latent store, with preferences for its pairs by `pair_id`. The store is not in this repository. Its
content hash is `{store_hash}`.

| label set | by | pairs |
|---|---|---|
{sets}

`score_0` and `score_1` are a scorer's scores of the two images. `label_0` is 1 where slot 0's is the better one, 0
where slot 1's is, and 0.5 for a tie. `probability_0` is of soft labels.

`hf download {repo} --repo-type dataset --local-dir STORE`, with the folder of the store, puts them where
`train_dpo.py --store STORE --labels {first}` finds them.
"""


def push(destination: str, names: Sequence[str], repo: str) -> str:
    """Send label sets of a store; a card that the repository has already, for example the store's, stays.

    Returns:
        A line that says where they are.
    """
    folders = tuple(f"labels/{name}/" for name in names)
    there = [path for path, _, _ in files.stamps(destination) if path.startswith(folders)]
    paths = [path for path in there if "/." not in path]  # without locks
    records = hub.records_without_folders(destination, [path for path in paths if path.endswith(".json")])
    written = records | {hub.CARD: card(destination, names, repo).encode()}
    return hub.push(repo, "dataset", destination, paths, written, keep_card=True)


def card(destination: str, names: Sequence[str], repo: str) -> str:
    """Write the card of label sets that lie in a repository without their store."""
    manifests = {name: label_files.read_labels_manifest(destination, name) for name in names}
    rows = [
        f"| {name} | {hub.escaped(str(hub.settings_without_folders(about.get('scorer', ''))))} | {about['rows']:,} |"
        for name, about in manifests.items()
    ]
    configs = [
        {"config_name": f"labels-{name}", "data_files": f"labels/{name}/{label_files.LABELS_FILES[0]}"}
        for name in names
    ]
    header = {"license": "unknown", "tags": ["diffusion-dpo", "preferences"], "configs": configs}
    return _CARD.format(
        header=yaml.safe_dump(header, sort_keys=False, allow_unicode=True),
        name=repo.split("/")[1],
        repo=repo,
        store_hash=store.read_manifest(destination).content_hash,
        sets="\n".join(rows),
        first=names[0],
    )
