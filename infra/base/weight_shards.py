"""The weight files of a part that its class opens: one whole file, or the shards that an index names."""

from __future__ import annotations

import re
from pathlib import Path

from infra.base import files, models, weight_names
from infra.base.errors import UserError

SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")
SHOWN = 3  # names in a refusal


def opened_files(part: Path, stem: str) -> list[Path]:
    """List the files of a part that the libraries open; their headers are read.

    Args:
        part: its folder.
        stem: of weight_names.STEMS, how its library names weights. diffusers takes an index before a whole file.

    Raises:
        UserError: if there are none, shards have no index, or the index names a file or tensor that is not there.
    """
    listed = models.default_weights(part.parent, part.name)
    whole = [path for path in listed if not SHARD.search(path.name)]
    index = part / f"{stem}.safetensors.index.json"
    prefers_whole = stem == weight_names.STEMS[1]
    if whole and (prefers_whole or not index.is_file()):
        return [path for path in whole if path.name.startswith(f"{stem}.")] or whole
    if not index.is_file():
        raise UserError(f"{part}: its weights are in parts, and {index.name}, which names them, is not there")
    named = files.read_json(str(index))
    if prefers_whole and "metadata" not in named:
        raise UserError(f'{index}: has no metadata, which transformers asks for; write "metadata": {{}} into it')
    places = named.get("weight_map", {})
    shards = [part / name for name in sorted(set(places.values()))]
    for shard in shards:
        if not shard.is_file():
            raise UserError(f"{index}: names {shard.name}, which is not there; copy the whole folder again")
    held = {shard.name: models.shapes(shard) for shard in shards}
    lost = [name for name, shard in places.items() if name not in held[shard]]
    if lost:
        rest = len(lost) - SHOWN
        shown = ", ".join(lost[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
        raise UserError(f"{index}: names tensors that are not in {places[lost[0]]} ({shown}); copy it again")
    return shards
