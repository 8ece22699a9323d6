"""Tables by their place: a folder, its files, and what is no table, with what to do instead."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from infra.base.errors import UserError
from pipelines.raw.import_config import ImportConfig
from pipelines.raw.import_pairs import main


def test_what_save_to_disk_wrote_is_refused_with_the_command_that_exports_it(tmp_path: Path) -> None:
    """Its folder also holds JSON, which is no table; several splits lie in folders of their own."""
    saved = tmp_path / "saved"
    (saved / "test").mkdir(parents=True)
    (saved / "test" / "data-00000-of-00001.arrow").write_bytes(b"")
    (saved / "state.json").write_text("{}")
    config = ImportConfig(table=str(saved), output=str(tmp_path / "raw"))
    with pytest.raises(UserError, match=r"saved: holds \.arrow, as .*load_from_disk\('\S+/saved'\)\.to_parquet\("):
        main(config)
    (saved / "dataset_dict.json").write_text('{"splits": ["test"]}')
    with pytest.raises(UserError, match=r"\.arrow of the splits test; choose one of them with --split"):
        main(config)
    with pytest.raises(UserError, match=r"/saved'\)\['test'\]\.to_parquet\('\S+/saved-test\.parquet'\)"):
        main(dataclasses.replace(config, split="test"))
    with pytest.raises(UserError, match=r"00001\.arrow: is a part of what datasets' save_to_disk wrote; give its"):
        main(dataclasses.replace(config, table=str(saved / "test" / "data-00000-of-00001.arrow")))
