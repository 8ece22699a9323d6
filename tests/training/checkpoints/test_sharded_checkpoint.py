"""Shards that cannot be read: torch's own exception is no Exception, so what leaves here is an OSError."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from training.checkpoints import sharded_checkpoint


@pytest.mark.chaos
def test_a_shard_that_goes_while_it_is_read_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = tmp_path / sharded_checkpoint.SHARDS
    weight = torch.arange(4.0)
    writer = dcp.HuggingFaceStorageWriter(str(shards), save_distributed=True)
    dcp.save({"network/weight": weight}, storage_writer=writer)
    assert sharded_checkpoint.load(tmp_path, "network", {"weight": weight})["weight"].tolist() == [0, 1, 2, 3]
    whole = dcp.load

    def load_without(*arguments: Any, **named: Any) -> None:
        for path in shards.iterdir():
            path.unlink()
        whole(*arguments, **named)

    monkeypatch.setattr(dcp, "load", load_without)
    with pytest.raises(OSError, match="rank 0: "):
        sharded_checkpoint.load(tmp_path, "network", {"weight": weight})
