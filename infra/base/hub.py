"""Hand files on to the Hub by its own client: what is there already is not sent again.

The login comes from the environment alone (HF_TOKEN). The token goes into no file and no message.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from infra.base import files
from infra.base.errors import UserError

if TYPE_CHECKING:
    from huggingface_hub import DatasetInfo, HfApi, ModelInfo

Kind = Literal["model", "dataset"]
FLAG = "--push-to-hub"
TOKEN = "HF_TOKEN"  # noqa: S105  (the variable's name)
CARD = "README.md"
MAY_WRITE = ("admin", "write", "contributor")  # roles of a member in an organisation
WRITES = "repo.write"  # the permission of a fine-grained token
# A path of this machine: the whole of a text, or a part of BASE+ADDED or NAME=PATH. s3:// and other addresses are none.
LOCAL_PATH = re.compile(r"(?:^|(?<=[+=]))/(?:(?![+=]/).)+")


def check(repo: str) -> None:
    """Refuse a name that cannot be written to, before anything expensive starts.

    Args:
        repo: OWNER/NAME, as --push-to-hub gives it.

    Raises:
        UserError: if the name is none, the Hub cannot be reached, or the token lacks or may not write there.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(
            f"{FLAG} {repo}: is no name of a repository; give OWNER/NAME, for example me/my-model"
        ) from error
    if "/" not in repo:
        raise UserError(f"{FLAG} {repo}: lacks its owner; give OWNER/NAME, for example me/{repo}")
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{FLAG} {repo}: HF_HUB_OFFLINE is set, so nothing is sent; unset it, or leave the flag out")
    with _refusing(repo):
        about = _api(repo).whoami()
    _check_rights(repo, about)


def _api(repo: str) -> HfApi:
    """Open the Hub's client with the environment's token.

    Raises:
        UserError: if there is none.
    """
    from huggingface_hub import HfApi

    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise UserError(
            f"{FLAG} {repo}: {TOKEN} is not set; set it to a token that may write, for example by "
            f"`export {TOKEN}=$(hf auth token)`"
        )
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)


@contextmanager
def _refusing(repo: str) -> Iterator[None]:
    """Say in one sentence what the Hub answered; the client's own messages may show more than is ours to print."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        code = error.response.status_code
        reasons = {
            401: f"the token in {TOKEN} is not valid; make a new one on the Hub's page of access tokens",
            403: f"the token in {TOKEN} may not do this; give it the right to write there",
            404: "no such repository, or the token may not see it",
            429: "it has answered too many requests; wait, and give the same command again",
        }
        reason = reasons.get(code, "give the same command again later")
        raise UserError(f"{FLAG} {repo}: the Hub answered {code}: {reason}") from error
    except Exception as error:
        if not _is_of_network(error):
            raise
        raise UserError(
            f"{FLAG} {repo}: the Hub cannot be reached ({type(error).__name__}); give the same command again later"
        ) from error


def _is_of_network(error: Exception) -> bool:
    """Say whether an error is of the connection; the client wraps some, and which library it sends with is its own."""
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError | RuntimeError) or library.startswith(("httpx", "requests", "urllib3"))


def _check_rights(repo: str, about: Mapping[str, Any]) -> None:
    """Refuse a token that may not write to a repository, by what the Hub says of its user."""
    owner = repo.split("/")[0]
    roles = {about.get("name"): "admin"} | {org["name"]: org.get("roleInOrg") for org in about.get("orgs", [])}
    if owner not in roles:
        own = ", ".join(name for name in roles if name)
        raise UserError(
            f"{FLAG} {repo}: the token is of {own}, and {owner} is none of them; give one of these as owner"
        )
    if roles[owner] is not None and roles[owner] not in MAY_WRITE:
        raise UserError(f"{FLAG} {repo}: the token's user only reads in {owner}; ask for the right to write there")
    token = about.get("auth", {}).get("accessToken", {})
    if token.get("role") == "read":
        raise UserError(f"{FLAG} {repo}: the token in {TOKEN} only reads; make one with the role write")
    if token.get("role") == "fineGrained" and not _may_write(repo, token.get("fineGrained", {})):
        raise UserError(
            f"{FLAG} {repo}: the fine-grained token in {TOKEN} may not write to {owner}; give it that right"
        )


def _may_write(repo: str, rights: Mapping[str, Any]) -> bool:
    named = (repo, repo.split("/")[0])
    scoped = [one for one in rights.get("scoped", []) if one.get("entity", {}).get("name") in named]
    return WRITES in rights.get("global", []) or any(WRITES in one.get("permissions", []) for one in scoped)


def push(
    repo: str,
    kind: Kind,
    folder: str,
    names: list[str],
    written: Mapping[str, bytes],
    *,
    keep_card: bool = False,
) -> str:
    """Send files to a repository in one commit; a new repository is private, and of an old one nothing is deleted.

    Args:
        folder: where the files lie, local or s3://.
        names: their paths within the folder, which they have in the repository, too.
        written: further files by their path there, in place of those in the folder.
        keep_card: whether a card that is there already stays.

    Returns:
        One line that says where they are.

    Raises:
        UserError: if the Hub refuses, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # it warns of the commit that it rightly leaves out
    api = _api(repo)
    with TemporaryDirectory() as copies:
        # Outside of what is of the Hub: a full disk is no fault of the network.
        local = _local_copies(folder, [name for name in names if name not in written], Path(copies))
        with _refusing(repo):
            before = _state(api, repo, kind)
            if before is None:
                api.create_repo(repo, repo_type=kind, private=True)
            elif keep_card and CARD in [one.rfilename for one in before.siblings or []]:
                written = {name: content for name, content in written.items() if name != CARD}
            sent = [CommitOperationAdd(name, path) for name, path in local.items()]
            sent += [CommitOperationAdd(name, content) for name, content in written.items()]
            done = api.create_commit(repo, sent, commit_message=f"Upload {len(sent)} files", repo_type=kind)
    place = f"{api.endpoint}/{'datasets/' if kind == 'dataset' else ''}{repo}"
    if before is not None and done.oid == before.sha:
        return f"{place}: has all {len(sent)} files already, nothing was sent"
    seen = "as visible as before"
    if before is None:
        seen = "which is new and private; its settings on the Hub make it public"
    return f"{place}: {len(sent)} files are in the repository, {seen}"


def _state(api: HfApi, repo: str, kind: Kind) -> ModelInfo | DatasetInfo | None:
    """Return what a repository has; None where there is none."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return api.model_info(repo) if kind == "model" else api.dataset_info(repo)
    except RepositoryNotFoundError:
        return None


def _local_copies(folder: str, names: list[str], copies: Path) -> dict[str, Path]:
    """Return the files' places on this machine; those on S3 are copied there first."""
    if not files.is_remote(folder):
        return {name: Path(folder) / name for name in names}
    for name in names:
        files.copy(files.join(folder, name), str(copies / name))
    return {name: copies / name for name in names}


def local_paths(value: Any) -> Iterator[str]:
    """Yield the paths of this machine among settings, which lie in dicts and lists."""
    if isinstance(value, str):
        yield from LOCAL_PATH.findall(value)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from local_paths(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from local_paths(inner)


def without_folders(text: str, paths: Iterable[str]) -> str:
    """Write each path within a text as its last part: the folders above it may say whose machine it is."""
    forms = {form for path in paths for form in (path, json.dumps(path)[1:-1])}  # as settings are written, too
    for form in sorted(forms, key=len, reverse=True):  # a folder after what lies in it
        name = Path(form).name.replace("\\", r"\\")  # no escape, as in a template of re.sub
        text = re.sub(rf"(?<![\w/.-]){re.escape(form)}(?![\w.-])", name, text)
    return text


def settings_without_folders(value: Any) -> Any:
    """Return settings with each path of this machine as its last part."""
    if isinstance(value, str):
        return LOCAL_PATH.sub(lambda path: Path(path[0]).name, value)
    if isinstance(value, Mapping):
        return {name: settings_without_folders(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [settings_without_folders(inner) for inner in value]
    return value


def records_without_folders(folder: str, names: Iterable[str]) -> dict[str, bytes]:
    """Return those of a folder's JSON records that name paths of this machine, without the folders of these paths."""
    changed = {}
    for name in names:
        before = files.read_json(files.join(folder, name))
        after = settings_without_folders(before)
        if after != before:
            changed[name] = (json.dumps(after, indent=2) + "\n").encode()
    return changed


def escaped(text: str, most: int = 200) -> str:
    """Write a text of others as Markdown that shows it as it is, on one line; no more than some characters of it."""
    shown = " ".join(text.split())
    shown = shown if len(shown) <= most else f"{shown[:most]}…"
    return "".join(f"&#{ord(one)};" if one in "\\`*_{}[]()<>#+-.!|~&:/@$\"'" else one for one in shown)
