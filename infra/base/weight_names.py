"""How diffusers and transformers name weight files: a part's default weights, and its variants (fp16, non_ema)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from infra.base import files
from infra.base.errors import UserError

STEMS = ("diffusion_pytorch_model", "model")  # in folders of diffusers and of transformers
PRECISIONS = ("fp32", "bf16", "fp16")  # variants of the same weights, the most exact first
ADAPTERS = "adapter_config.json"  # of PEFT; transformers loads the adapters beside it into the weights by itself
PEFT = "adapter_model.safetensors"  # the adapters
# What is said of adapters, in any form, where a model was wanted:
NO_MODEL = (
    "holds adapters (LoRA), not a model; name their base here, and give the adapters as --lora to draw with them, or "
    "merge them into it to train from there (docs/your-pairs.md)"
)
PICKLES = (".bin", ".ckpt", ".pt", ".pth")  # ends of weight files that are never opened
# model.safetensors, model.fp16.safetensors, model-00001-of-00002.safetensors, model.fp16-00001-of-00002.safetensors,
# model-00001-of-00002.fp16.safetensors
_NAME = re.compile(
    rf"^(?P<stem>{'|'.join(STEMS)})(\.(?P<before>\w+))?(?P<part>-\d{{5}}-of-\d{{5}})?(\.(?P<after>\w+))?\.safetensors$"
)
_INDEX = re.compile(rf"^(?P<stem>{'|'.join(STEMS)})\.safetensors\.index\.(?P<variant>\w+)\.json$")


def variant(name: str) -> str | None:
    """Return which variant a weight file or its index is of: "" for the default, None for any other file."""
    index = _INDEX.match(name)
    if index:
        return index["variant"]
    weights = _NAME.match(name)
    return (weights["before"] or weights["after"] or "") if weights else None


def default_name(name: str) -> str:
    """Return the name that a variant's file has as the default weights."""
    index = _INDEX.match(name)
    if index:
        return f"{index['stem']}.safetensors.index.json"
    weights = _NAME.match(name)
    return f"{weights['stem']}{weights['part'] or ''}.safetensors" if weights else name


def only_variant(part: Path, names: Iterable[str]) -> str | None:
    """Return the variant that stands for a part's weights: None where it has default ones, or none at all.

    Raises:
        UserError: if several variants are there and their names do not say which is the most exact.
    """
    kinds = {variant(name) for name in names if name.endswith(".safetensors")} - {None}
    if "" in kinds:
        return None
    exact = [kind for kind in PRECISIONS if kind in kinds]
    if len(kinds) > 1 and not exact:
        raise UserError(f"{part}: has its weights as {' and as '.join(sorted(map(str, kinds)))}; keep one of them")
    return exact[0] if exact else next(iter(kinds), None)


def default_contents(part: Path, kind: str) -> dict[str, Path | bytes]:
    """Return a part's files with one variant under the names of the default weights, its index rewritten."""
    contents: dict[str, Path | bytes] = {}
    for path in sorted(path for path in part.iterdir() if path.is_file()):
        named = variant(path.name)
        if named is None:
            contents[path.name] = path
        elif named == kind:
            contents[default_name(path.name)] = _index(path) if path.suffix == ".json" else path
    return contents


def _index(path: Path) -> bytes:
    index = files.read_json(str(path))
    places = {tensor: default_name(name) for tensor, name in index.get("weight_map", {}).items()}
    return json.dumps(index | {"weight_map": places}, indent=2).encode()
