"""The card of a result: what it is, how it was made, and lines that open it where it lies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from infra.base import composed, files, model_sources
from pipelines.drawing.guidance import guidance
from pipelines.latents.kinds import native_resolution
from pipelines.latents.kinds_known import KINDS
from training.method.objective_config import ObjectiveConfig
from training.method.policy_config import PolicyConfig
from training.run import exports, result_hub
from training.settings.config import TrainConfig

LIBRARIES = ("torch", "torchvision", "diffusers", "transformers", "peft")
SAMPLES = "samples.png"  # the last grid of images that the run drew, beside the card

_CARD = """---
library_name: diffusers
pipeline_tag: text-to-image
{base}{licence}tags: [diffusion-dpo{tag}]
---
# {name}

{samples}`{model}` fine-tuned with the objective `{objective}` on {pairs:,} pairs of human or machine preferences
(Wallace et al. 2023, "Diffusion Model Alignment Using Direct Preference Optimization", arXiv 2311.12908).

{here}

```python
import torch
from diffusers import DiffusionPipeline

{loading}
image = pipeline(prompt="a photo of a cat", num_inference_steps={drawing_steps}, {drawing}).images[0]
```

torchvision must be of the release that belongs to torch, else diffusers fails at its import: install both together.
One `dtype` for all parts is needed: the trained weights are float32, and the base may hold others in half precision.
Give `torch.bfloat16` or `torch.float16` to save memory on a GPU.
{exported}
| what | value |
|---|---|
| steps x pairs | {steps} x {batch} (best checkpoint: step {best}) |
| trained | {trained} |
| the network predicts | {prediction} |
| images while training | {images} |
| beta, learning rate | {beta}, {rate:g} |
| base | {model} |
| reference | {reference} |
| label set | {labels} |
| latent store, content hash | {store_hash} |
| label set, hash | {labels_hash} |
| held-out implicit accuracy | {accuracy} |
| made with | {versions} |

{terms} Preferences carry their raters' tastes and biases into the model.

All settings:

```json
{settings}
```
"""


def fill(
    config: TrainConfig,
    base: Path,
    facts: Mapping[str, Any],
    *,
    pairs: int,
    left_out: Sequence[str] = (),
    samples: bool = False,
) -> str:
    """Fill in the card.

    Args:
        base: the base model's folder on this machine.
        facts: what facts.json holds.
        pairs: how many were trained on.
        left_out: parts without which the model was trained, T5 and its tokenizer.
        samples: whether SAMPLES lies beside the card.
    """
    accuracy = facts.get("implicit_reward")
    lora = config.policy.lora_rank
    how = "".join([", dtype=torch.float32", *(f", {part}=None" for part in left_out)])
    named, _ = composed.split(config.model)
    local = files.local(named or config.model).is_dir()
    pipeline = files.read_json(str(base / "model_index.json"))["_class_name"]
    whole = f'pipeline = DiffusionPipeline.from_pretrained("."{how})'
    scale = guidance(pipeline, config.validation.guidance_scale, 1)
    size = _size(base, pipeline, facts)
    hub = _hub_name(base) if local else named or config.model
    licence = _licence(base)
    return _CARD.format(
        model=config.model,
        base=f"base_model: {hub}\n{'base_model_relation: adapter' if lora else 'base_model_relation: finetune'}\n"
        if hub
        else "",
        licence=f"license: {licence}\n" if licence else "",
        terms=f"The base model’s card names the licence {licence}, which applies."
        if licence
        else "The licence of the base model applies.",
        samples=f"![Images drawn while it trained]({SAMPLES})\n\n" if samples else "",
        tag=", lora" if lora else "",
        exported=exports.say(f"{Path(config.output).name}.safetensors", base, bool(lora))
        if config.export == "single-file"
        else "",
        loading=f'{_open_base(config, pipeline, how)}\npipeline.load_lora_weights(".")' if lora else whole,
        drawing_steps=config.validation.sampling_steps,
        drawing=", ".join(f"{name}={value!r}" for name, value in (scale | size).items()),
        here=result_hub.HERE,
        images=_images(facts),
        name=Path(config.output).name,
        objective=config.objective.objective,
        pairs=pairs,
        steps=config.steps,
        batch=config.data.global_batch,
        best=facts["best_step"],
        trained=_trained(config.policy),
        prediction=facts["prediction_type"],
        beta=_beta(config.objective),
        rate=config.optimizer.learning_rate,
        reference=facts["reference"],
        labels=config.data.labels,
        store_hash=facts["store_hash"],
        labels_hash=facts["labels_hash"],
        accuracy=f"{accuracy['accuracy']:.3f} of {accuracy['n']}" if accuracy else "not measured",
        versions=_versions(),
        settings=json.dumps(facts["config"], indent=2),
    )


def _size(base: Path, pipeline: str, facts: Mapping[str, Any]) -> dict[str, int]:
    """Return the sides and tokens that the policy was trained with, where its pipeline would take others."""
    side = facts.get("resolution")
    tokens = {"max_sequence_length": facts["max_tokens"]} if facts.get("max_tokens") else {}
    if pipeline in KINDS and KINDS[pipeline].binned:
        side = side or native_resolution(base)
        return {"height": side, "width": side, "use_resolution_binning": False} | tokens
    other = side and not facts.get("buckets") and side != native_resolution(base)
    return ({"height": side, "width": side} if other else {}) | tokens


def _images(facts: Mapping[str, Any]) -> str:
    side = facts.get("resolution")
    return f"{side} x {side} pixels{', or a shape of as many' if facts.get('buckets') else ''}" if side else "not noted"


def _versions() -> str:
    """Name the libraries that the result was made with; torch and torchvision belong together."""
    installed = {name: version(name) for name in LIBRARIES if find_spec(name)}
    return ", ".join(f"{name} {release}" for name, release in installed.items())


def _open_base(config: TrainConfig, pipeline: str, how: str) -> str:
    """Return the lines that open the base with diffusers as --model named it, BASE+ADDED for one.

    Args:
        pipeline: its class.
        how: arguments that every way of opening takes.
    """
    base, added = composed.split(config.model)
    revision = f', revision="{config.revision}"' if config.revision else ""
    if base is None:
        return f'pipeline = DiffusionPipeline.from_pretrained("{_place(added)}"{revision}{how})'
    if added.endswith(model_sources.SINGLE):
        file = f'"{_place(added)}", config="{_place(base)}"'
        return f"import diffusers\n\npipeline = diffusers.{pipeline}.from_single_file({file}{how})"
    network = KINDS[pipeline].network
    inside = "" if (Path(_place(added)) / "config.json").is_file() else f', subfolder="{network}"'
    return (
        "from diffusers import AutoModel\n\n"
        f'{network} = AutoModel.from_pretrained("{_place(added)}"{inside}, dtype=torch.float32)\n'
        f'pipeline = DiffusionPipeline.from_pretrained("{_place(base)}"{revision}{how}, {network}={network})'
    )


def _place(model: str) -> str:
    """Return a local path from the root of the disk; a Hub name or s3:// stays."""
    return str(files.local(model)) if files.local(model).exists() else model


def _hub_name(base: Path) -> str | None:
    """Return the Hub name that a local folder says it came from; None where it says none."""
    name = files.read_json(str(base / "model_index.json")).get("_name_or_path")
    is_name = isinstance(name, str) and name.count("/") == 1 and not name.startswith((".", "/"))
    return name if is_name and not files.local(name).exists() else None


def _licence(base: Path) -> str | None:
    """Return the licence that the base's own card names in its header; None where there is none."""
    path = base / "README.md"
    parts = path.read_text(errors="replace").split("---\n") if path.is_file() else []
    if len(parts) < 3 or parts[0].strip():
        return None
    try:
        header = yaml.safe_load(parts[1])
    except (yaml.YAMLError, RecursionError):
        return None
    named = header.get("license") if isinstance(header, dict) else None
    return named if isinstance(named, str) else None


def _beta(objective: ObjectiveConfig) -> str:
    if not objective.needs_reference:
        return "none"
    if objective.beta == "auto":
        return f"found at each step, {objective.beta_most:g} at the most"
    return f"{objective.beta:g}"


def _trained(policy: PolicyConfig) -> str:
    what = "every weight of the network"
    if policy.lora_rank:
        layers = ", ".join(policy.lora_targets) or "the attention projections"
        alpha = f"alpha {policy.lora_alpha or policy.lora_rank} (in the weights: load at scale 1)"
        what = f"LoRA of rank {policy.lora_rank}, {alpha}, on {layers}"
        if policy.base_precision != "float32":
            what += f"; beside the base's weights in {policy.base_precision}"
    return f"{what}; the average at decay {policy.ema_decay:g}" if policy.ema_decay else what
