"""The result of a run: a complete diffusers folder with the trained network, its facts, and a model card."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from infra import files
from training.backbone import Backbone
from training.config import TrainConfig
from training.loader import Labelled

RESULT = "result"
FACTS = "facts.json"

_CARD = """---
library_name: diffusers
pipeline_tag: text-to-image
base_model: {model}
tags: [diffusion-dpo]
---
# {name}

`{model}` fine-tuned with the objective `{objective}` on {pairs:,} pairs of human or machine preferences
(Wallace et al. 2023, "Diffusion Model Alignment Using Direct Preference Optimization", arXiv 2311.12908).

```python
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained("{name}")
```

| what | value |
|---|---|
| steps x pairs | {steps} x {batch} (best checkpoint: step {best}) |
| beta, learning rate | {beta}, {rate:g} |
| reference | {reference} |
| label set | {labels} |
| latent store, content hash | {store_hash} |
| label set, hash | {labels_hash} |
| held-out implicit accuracy | {accuracy} |

The licence of the base model applies. Preferences carry their raters' tastes and biases into the model.

All settings:

```json
{settings}
```
"""


def result_folder(output: Path) -> Path:
    """Name the folder of a finished run's pipeline."""
    return output / RESULT


def is_finished(output: Path, steps: int) -> bool:
    """Say whether a run has its result after so many steps; the facts are written last. More steps go on from there."""
    path = result_folder(output) / FACTS
    return path.is_file() and files.read_json(str(path))["train"]["steps"] >= steps


def write_result(
    config: TrainConfig,
    output: Path,
    backbone: Backbone,
    policy: torch.nn.Module,
    facts: dict[str, Any],
    data: Labelled,
) -> None:
    """Write the base model's folder with the trained network in its place; an older result stands until it is whole."""
    folder = output / f"{RESULT}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    index = files.read_json(str(backbone.folder / "model_index.json"))
    for name in index:
        if name != backbone.network_folder and (backbone.folder / name).is_dir():
            shutil.copytree(backbone.folder / name, folder / name)
    shutil.copy(backbone.folder / "model_index.json", folder)
    policy.save_pretrained(folder / backbone.network_folder, safe_serialization=True)  # type: ignore[operator]
    accuracy = facts.get("implicit_reward")
    reference = config.reference.name if config.objective.needs_reference else "none"
    card = _CARD.format(
        model=config.model,
        name=output.name,
        objective=config.objective.objective,
        pairs=len(data.rows),
        steps=config.steps,
        batch=config.data.global_batch,
        best=facts["best_step"],
        beta=f"{config.objective.beta:g}" if config.objective.needs_reference else "none",
        rate=config.optimizer.learning_rate,
        reference=reference,
        labels=config.data.labels,
        store_hash=data.staged.manifest.content_hash,
        labels_hash=data.labels_hash,
        accuracy=f"{accuracy['accuracy']:.3f} of {accuracy['n']}" if accuracy else "not measured",
        settings=json.dumps(asdict(config), indent=2),
    )
    (folder / "README.md").write_text(card)
    hashes = {"store_hash": data.staged.manifest.content_hash, "labels_hash": data.labels_hash}
    files.write_json(str(folder / FACTS), facts | hashes | {"reference": reference, "config": asdict(config)})
    shutil.rmtree(result_folder(output), ignore_errors=True)
    folder.rename(result_folder(output))
