"""Hand a finished store on to the Hub: its files, its label sets, and a card that says how others read it."""

from __future__ import annotations

from typing import Any

import yaml

from infra.base import files, hub, tables
from pipelines.latents import label_files, store

LEFT_HERE = ("reference/", ".")  # cached errors are of one model, and what is hidden is of unfinished work
PAGES = (".html",)  # they show images of the source
EXAMPLES = 5  # captions on the card
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10**7, "1M<n<10M"))

_CARD = """---
{header}---
# {name}

{kept:,} pairs of images with preferences, encoded for the diffusion model `{model}` at {resolution} pixels. They are
latents and text embeddings, not images: what was encoded from them trains that model and others with the same VAE and
text encoders.

```python
import datasets

pairs = datasets.load_dataset("{repo}", "pairs", split="train")      # kept pairs, with latents
prompts = datasets.load_dataset("{repo}", "prompts", split="train")  # captions and their embeddings, by prompt_id
labels = datasets.load_dataset("{repo}", "labels-human", split="train")  # label_0 by pair_id
```

| column | what it is |
|---|---|
| `pair_id`, `prompt_id` | names of the pair and of its caption |
{latents}| `label_0` | 1 where the image in slot 0 is better, 0 where that in slot 1 is |
| `probability_0` | of a soft label set: the probability that slot 0 is better |
| `image_0_uid`, `image_1_uid`, `model_0`, `model_1` | what the source called the images, and what drew them |

| what | value |
|---|---|
| rows of the source | {rows_in:,}: {kept:,} kept, {ties:,} ties, {quarantined:,} quarantined |
| captions | {prompts:,} |
| latents | {shape}, {dtype}, posterior {posterior} |
| label sets | {labels} |
| content hash | {content_hash} |
| bytes | {size:,} |

Latents are already multiplied by the VAE's scaling factor. Rows of `pairs/status=tie` and `pairs/status=quarantined`
have none, and the lines above pass over them. `hf download {repo} --repo-type dataset --local-dir store` brings the
whole store, which `train_dpo.py --store store` reads.

Some of its captions:

{captions}

The licence of these data is {licence}. That of the images and captions they were made from applies, too.
"""


def push(folder: str, repo: str, licence: str) -> str:
    """Send a finished store, with its label sets; returns a line that says where it is.

    Its records name paths of this machine. On the Hub they have the last part of each alone.
    """
    names = [name for name, _, _ in files.stamps(folder) if _is_sent(name)]
    records = hub.records_without_folders(folder, [name for name in names if name.endswith(".json")])
    written = records | {hub.CARD: card(folder, repo, licence).encode()}
    return hub.push(repo, "dataset", folder, [*names], written)


def _is_sent(name: str) -> bool:
    return not name.startswith(LEFT_HERE) and not name.endswith(PAGES) and "/." not in name and name != hub.CARD


def card(folder: str, repo: str, licence: str) -> str:
    """Write the card of a store, with the header that lets `datasets` read its parts."""
    manifest = store.read_manifest(folder)
    counts = manifest.counts
    sets = label_files.label_sets(folder)
    columns = "`latents_0`, `latents_1`" if not counts.images else "`image_0_id`, `image_1_id`"
    what = (
        "what the VAE made of the two images" if not counts.images else "names of the two images in the part `images`"
    )
    captions = tables.read(files.list_files(files.join(folder, "prompts"), tables.SUFFIX), ["caption"])
    shown = [one for one in captions["caption"].unique().to_pylist() if one][:EXAMPLES]
    return _CARD.format(
        header=yaml.safe_dump(_header(counts, sets, licence), sort_keys=False, allow_unicode=True),
        name=repo.split("/")[1],
        repo=repo,
        kept=counts.kept,
        model=hub.settings_without_folders(manifest.model),
        resolution=manifest.resolution,
        latents=f"| {columns} | {what} |\n",
        rows_in=counts.rows_in,
        ties=counts.ties,
        quarantined=counts.quarantined,
        prompts=counts.prompts,
        shape=" x ".join(map(str, manifest.latent_shape)),
        dtype=manifest.dtype,
        posterior=manifest.posterior,
        labels=", ".join(sets),
        content_hash=manifest.content_hash,
        size=sum(about["bytes"] for about in manifest.files.values()),
        captions="\n".join(f"- {hub.escaped(one)}" for one in shown),
        licence="not known" if licence == "unknown" else licence,
    )


def _header(counts: store.Counts, sets: list[str], licence: str) -> dict[str, Any]:
    parts = {"pairs": f"{store.KEPT}/*.parquet", "prompts": "prompts/*.parquet"}
    if counts.images:
        parts["images"] = f"{store.KEPT_IMAGES}/*.parquet"
    parts |= {f"labels-{name}": f"labels/{name}/{label_files.LABELS_FILES[0]}" for name in sets}
    size = next((name for most, name in SIZES if counts.kept < most), "n>10M")
    configs = [
        {"config_name": name, "data_files": [{"split": "train", "path": path}]}
        | ({"default": True} if name == "pairs" else {})
        for name, path in parts.items()
    ]
    return {
        "license": licence,
        "task_categories": ["text-to-image"],
        "tags": ["diffusion-dpo", "preferences", "latents"],
        "size_categories": [size],
        "configs": configs,
    }
