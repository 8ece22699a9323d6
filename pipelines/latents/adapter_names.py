"""What kind of adapters a file holds, by the names of its tensors alone."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import safe_open

from infra.base import models
from infra.base.errors import UserError

LYCORIS = re.compile(r"\.(lokr_|hada_|oft_|diag_oft|ia3|on_input)")
# The magnitudes of DoRA, in other trainers' names, which diffusers leaves out, and in PEFT's.
DORA = ("dora_scale", "lora_magnitude_vector", "lora_magnitude_vector.weight")
FLOATS = ("F16", "BF16", "F32", "F64")  # as safetensors names types
SHOWN = 3  # names in a refusal


def refuse_other_kinds(flag: str, adapters: Path) -> None:
    """Refuse a file of adapters that are not LoRA; its header alone is read.

    Raises:
        UserError: naming the flag, the file and a tensor.
    """
    path = adapters / models.ADAPTERS
    names = models.shapes(path)
    other = next((name for name in names if LYCORIS.search(name) or name.endswith(DORA)), None)
    if other:
        kind = "DoRA" if other.endswith(DORA) else "LyCORIS (LoKr, LoHa or OFT)"
        raise UserError(
            f"{flag} {path}: holds {kind} adapters ({other}), and only LoRA is loaded; convert them to LoRA"
        )
    if not any("lora" in name for name in names):
        raise UserError(f"{flag} {path}: holds no tensors of a LoRA ({', '.join(list(names)[:SHOWN])})")
    with safe_open(path, framework="np") as opened:
        kinds = {name: opened.get_slice(name).get_dtype() for name in names if not name.endswith("alpha")}
    odd = next((name for name, kind in kinds.items() if kind not in FLOATS), None)
    if odd:
        raise UserError(
            f"{flag} {path}: {odd} is stored as {kinds[odd]}; give the adapters in float16, bfloat16 or float32"
        )
