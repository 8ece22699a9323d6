"""Files handed on to the Hub: its real client against a stand-in on loopback. Rights are checked before anything."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from support import hub_server

from infra.base import hub
from infra.base.errors import UserError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[hub_server.HubServer]:
    with hub_server.running() as running:
        hub_server.use(running, monkeypatch)
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a small file and one that goes by LFS."""
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "w.safetensors").write_bytes(b"w" * 5000)
    (tmp_path / "index.json").write_text("{}")
    (tmp_path / "README.md").write_text("here")
    return tmp_path


NAMES = ["README.md", "index.json", "unet/w.safetensors"]


def test_a_new_repository_is_private_and_nothing_is_sent_twice(server: hub_server.HubServer, folder: Path) -> None:
    sentence = hub.push("me/x", "model", str(folder), NAMES, {"README.md": b"there"})
    assert sentence == (
        f"{server.address}/me/x: 3 files are in the repository, which is new and private; its settings on the Hub make "
        "it public"
    )
    repository = server.repositories["models/me/x"]
    assert repository.private
    assert repository.files == {"README.md": b"there", "index.json": b"{}", "unet/w.safetensors": b"w" * 5000}
    again = hub.push("me/x", "model", str(folder), NAMES, {"README.md": b"there"})
    assert again == f"{server.address}/me/x: has all 3 files already, nothing was sent"
    assert (repository.commits, server.uploads) == (1, 5000)
    (folder / "index.json").write_text("{ }")
    assert hub.push("me/x", "model", str(folder), NAMES, {}).endswith(
        "files are in the repository, as visible as before"
    )
    assert (repository.commits, server.uploads) == (2, 5000)
    assert repository.files["README.md"] == b"here"


def test_a_card_that_is_there_may_stay(server: hub_server.HubServer, folder: Path) -> None:
    hub.push("lab/x", "dataset", str(folder), ["index.json"], {"README.md": b"store"})
    hub.push("lab/x", "dataset", str(folder), ["unet/w.safetensors"], {"README.md": b"labels"}, keep_card=True)
    assert server.repositories["datasets/lab/x"].files["README.md"] == b"store"


def test_files_on_s3_are_sent_too(server: hub_server.HubServer, bucket: str) -> None:
    from infra.base import files

    files.write_bytes(f"{bucket}/handed/unet/w.bin", b"w" * 2000)
    hub.push("me/x", "model", f"{bucket}/handed", ["unet/w.bin"], {})
    assert server.repositories["models/me/x"].files == {"unet/w.bin": b"w" * 2000}


def test_a_disk_that_is_full_of_copies_from_s3_is_not_called_the_hub(
    server: hub_server.HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: str, target: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", target)

    monkeypatch.setattr(hub.files, "copy", full)
    with pytest.raises(OSError, match="No space left on device"):
        hub.push("me/x", "model", "s3://bucket/handed", ["w.bin"], {})
    assert not server.asked


def fine_grained(name: str, *permissions: str) -> dict[str, Any]:
    scoped = [{"entity": {"type": "user", "name": name}, "permissions": list(permissions)}]
    return {"role": "fineGrained", "fineGrained": {"global": [], "scoped": scoped}}


@pytest.mark.parametrize(
    "token", [{"role": "write"}, fine_grained("me", "repo.write"), fine_grained("me/x", "repo.write")]
)
def test_a_token_that_may_write_passes(server: hub_server.HubServer, token: dict[str, Any]) -> None:
    server.whoami["auth"] = {"accessToken": token}
    hub.check("me/x")
    assert server.asked == ["GET /api/whoami-v2"]  # and nothing was made


@pytest.mark.parametrize(
    ("repo", "token", "refusal"),
    [
        ("x", {}, "--push-to-hub x: lacks its owner; give OWNER/NAME, for example me/x"),
        ("me/a b", {}, "--push-to-hub me/a b: is no name of a repository"),
        ("you/x", {"role": "write"}, "the token is of me, lab, club, and you is none of them"),
        ("club/x", {"role": "write"}, "the token's user only reads in club"),
        ("me/x", {"role": "read"}, "the token in HF_TOKEN only reads; make one with the role write"),
        ("me/x", fine_grained("me", "repo.content.read"), "the fine-grained token in HF_TOKEN may not write"),
        ("me/x", fine_grained("you", "repo.write"), "the fine-grained token in HF_TOKEN may not write"),
    ],
)
def test_what_may_not_be_written_to_is_refused_at_once(
    server: hub_server.HubServer, repo: str, token: dict[str, Any], refusal: str
) -> None:
    server.whoami["auth"] = {"accessToken": token}
    with pytest.raises(UserError, match=refusal):
        hub.check(repo)
    assert not server.repositories


def test_no_token_a_wrong_one_offline_and_nobody_there(
    server: hub_server.HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(UserError, match="the Hub answered 401: the token in HF_TOKEN is not valid") as wrong:
        hub.check("me/x")
    assert "hf_secret" not in str(wrong.value)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    with pytest.raises(UserError, match=r"the Hub cannot be reached \(ConnectError\)"):
        hub.check("me/x")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="HF_TOKEN is not set; set it to a token that may write"):
        hub.check("me/x")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, so nothing is sent"):
        hub.check("me/x")
    assert server.asked == ["GET /api/whoami-v2"]


def test_captions_on_a_card_are_text() -> None:
    assert hub.escaped("a  <b>\n| [x](y)") == "a &#60;b&#62; &#124; &#91;x&#93;&#40;y&#41;"
    assert hub.escaped("a" * 300) == "a" * 200 + "…"
