"""--store-dtype: a store in float32 holds what its float16 twin was rounded from, and training reads it as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.material import rendered_pairs, write_pairs
from support.stores import refusal

from infra.base import engines
from pipelines.latents import addresses, schemas, store
from pipelines.latents.encode_config import EncodeConfig, StoreDtype
from pipelines.latents.encode_latents import main
from training.data import direct, staging
from training.data.applied_labels import as_stored
from training.data.loader import assemble

PAIRS = 12
DTYPES: tuple[StoreDtype, ...] = ("float16", "float32")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("dtypes")
    raw = write_pairs(folder / "raw", rendered_pairs(PAIRS))
    with engines.asking("local"):
        for dtype in DTYPES:
            main(EncodeConfig(source=str(raw), store=str(folder / dtype), store_dtype=dtype, flip=True))
    return {dtype: folder / dtype for dtype in DTYPES}


def table_of(path: Path, part: str, key: str) -> pa.Table:
    return pq.read_table(path / part, partitioning=None).sort_by(key)


@pytest.mark.slow
def test_float32_holds_what_float16_was_rounded_from(stores: dict[str, Path]) -> None:
    manifests = [store.read_manifest(str(path)) for path in stores.values()]
    assert [manifest.dtype for manifest in manifests] == list(DTYPES)
    assert manifests[0].content_hash != manifests[1].content_hash
    for part, key in addresses.KEYS.items():
        half, whole = (table_of(path, part, key) for path in stores.values())
        names = [field.name for field in half.schema if pa.types.is_fixed_size_list(field.type)]
        assert len(names) == (4 if key == "pair_id" else 1)
        for name in names:
            rounded, exact = schemas.value_rows(half[name]), schemas.value_rows(whole[name])
            assert (rounded.dtype, exact.dtype) == (np.float16, np.float32)
            assert np.array_equal(exact.astype(np.float16), rounded)
            assert not np.array_equal(exact, rounded.astype(np.float32))


@pytest.mark.slow
def test_training_reads_it_by_its_index_and_from_a_copy_as_it_is(stores: dict[str, Path], tmp_path: Path) -> None:
    path = str(stores["float32"])
    manifest = store.read_manifest(path)
    assert direct.is_addressable(manifest)
    rows = np.arange(PAIRS - 2)
    batches = [
        assemble(as_stored(opened), rows[:4], 0, 0, lambda share: int(999 * share), 0.5)
        for opened in (direct.open_pairs(path, manifest, None), staging.stage(path, str(tmp_path)))
    ]
    assert torch.equal(batches[0].latents, batches[1].latents)
    assert torch.equal(batches[0].conditioning["text_encoder"], batches[1].conditioning["text_encoder"])
    stored = table_of(stores["float32"], store.KEPT, "pair_id")
    held = {row.tobytes() for name in schemas.latent_columns(flip=True) for row in schemas.value_rows(stored[name])}
    assert {latent.numpy().tobytes() for latent in batches[0].latents.flatten(0, 1)} <= held


def test_a_store_is_gone_on_with_in_its_own_format(stores: dict[str, Path], tmp_path: Path) -> None:
    source = str(stores["float16"].parent / "raw")
    flags = ("--source", source, "--flip", "--store", str(tmp_path))
    manifest = json.loads((stores["float16"] / store.MANIFEST).read_text())
    del manifest["config"]["store_dtype"]  # as earlier versions wrote it
    (tmp_path / store.MANIFEST).write_text(json.dumps(manifest))
    assert "store_dtype" in refusal(*flags, "--store-dtype", "float32")
