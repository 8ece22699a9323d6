"""A scorer in an environment of its own: another Python, another transformers, a process beside this one.

Judges of several years need packages that exclude each other. Each may have a virtual environment, which its user
makes. `apart_process.py` runs in it, and this end sends it images and captions and reads scores.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from infra.base import disk_errors, files
from infra.base.errors import UserError
from labelers.clips import weights as scorer_weights
from labelers.clips.weights import PUBLISHED, WORLD

PROCESS = Path(__file__).with_name("apart_process.py")
NAMES = ("cyclereward", "hpsv3", "imagereward")  # judges that apart_process.py knows
OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "JUDGE_API_KEY")  # of this environment, and nothing to another


@dataclass(frozen=True, kw_only=True)
class Apart:
    """Everything about a scorer in another environment; as JSON it goes wherever scorers are made."""

    name: str
    python: str  # absolute path, the same on every node
    weights: str  # published, or a local path
    versions: dict[str, str]  # of the packages that decide a score
    fingerprint: str

    def as_json(self) -> str:
        """Write it as JSON."""
        return json.dumps(asdict(self))


class Process:
    """The other Python."""

    def __init__(self, name: str, python: str) -> None:
        self.what = f"scorer {name}, in {python}"
        own = {key: value for key, value in os.environ.items() if key not in OURS}
        try:
            # -I: neither this folder nor the user's packages are on its path, only those of its environment.
            self.process = subprocess.Popen(  # noqa: S603  (the Python that the user names)
                [python, "-I", str(PROCESS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=own
            )
        except OSError as error:
            raise UserError(
                f"--scorer-python {name}={python}: cannot be started ({disk_errors.reason(error)}); give the "
                "bin/python of a virtual environment, at the same path on every node"
            ) from error
        atexit.register(self.end)

    def versions(self, request: dict[str, Any]) -> dict[str, str]:
        """Send a request for versions, or to load a judge, and return the versions.

        Raises:
            UserError: if it cannot be loaded, or lacks a package.
        """
        answer = self.ask(request)
        if "error" in answer:
            self.end()
            raise UserError(
                f"{self.what}: it cannot be loaded there: {answer['kind']}: {_first_line(answer['error'])}; install "
                "what it needs into that environment, or give other weights (docs/scorers.md)"
            )
        return answer["versions"]

    def ask(self, request: dict[str, Any], content: Sequence[bytes] = ()) -> dict[str, Any]:
        """Send a request and return its answer.

        Raises:
            UserError: if the process is gone.
        """
        stdin = self.process.stdin
        stdout = self.process.stdout
        assert stdin is not None
        assert stdout is not None
        line = b""
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
            for part in content:
                stdin.write(part)
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            pass  # told below, with what it ended with
        if not line:
            code = self.process.wait()
            raise UserError(f"{self.what}: its process ended with code {code}; what it said is above")
        return json.loads(line)

    def end(self) -> None:
        """End the process, which ends by itself when there are no more requests."""
        atexit.unregister(self.end)
        if self.process.stdin:
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[0][:300]


def find(name: str, python: str, weights: str | None) -> Apart:
    """Describe a scorer of another environment; it is loaded where it will score.

    Raises:
        UserError: if its packages are not there, or its weights.
    """
    path = os.path.abspath(os.path.expanduser(python))  # never resolved: a venv's python is a link to another one
    # The embedded world has no weights of such a judge, and world is only a flag's default.
    wanted = PUBLISHED if weights in (None, WORLD, PUBLISHED) else files.resolve(str(weights))
    if wanted != PUBLISHED and not Path(wanted).exists():
        raise UserError(f"--weights {name}={weights}: no such local file or folder; give another, or {PUBLISHED}")
    process = Process(name, path)
    versions = process.versions({"versions": name})
    process.end()
    own = [] if wanted == PUBLISHED else _files(Path(wanted))
    decisive = (name, wanted == PUBLISHED, sorted(versions.items()))
    fingerprint = scorer_weights.fingerprint([*own, PROCESS], *decisive)
    return Apart(name=name, python=path, weights=wanted, versions=versions, fingerprint=fingerprint)


def _files(path: Path) -> list[Path]:
    return sorted(part for part in path.rglob("*") if part.is_file()) if path.is_dir() else [path]


class ApartScorer:
    """Scores in another environment; made from an Apart's JSON."""

    temperature: float | None = None

    def __init__(self, described: str) -> None:
        self.apart = Apart(**json.loads(described))
        self.fingerprint = self.apart.fingerprint

    @property
    def provenance(self) -> dict[str, Any]:
        """Say where and by which versions it judges, for manifests."""
        return {"python": self.apart.python, "weights": self.apart.weights, "versions": self.apart.versions}

    def check(self) -> None:
        """Do nothing: it was loaded when it was described."""

    @functools.cached_property
    def process(self) -> Process:
        """Start the other Python and load the judge, once in each process.

        Raises:
            UserError: if it cannot be loaded, or its packages are not those of the node where the job was started.
        """
        apart = self.apart
        process = Process(apart.name, apart.python)
        versions = process.versions({"load": apart.name, "weights": apart.weights})
        if versions != apart.versions:
            process.end()
            raise UserError(
                f"{process.what}: other packages on this node ({versions}) than where the job was started "
                f"({apart.versions}); make the environments alike"
            )
        return process

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return what the judge says of RGB images, [B] float32; NaN where its score is not finite.

        Raises:
            MemoryError: if its memory does not suffice.
            RuntimeError: if it raises anything else.
            UserError: if its process is gone.
        """
        request = {"sizes": [image.size for image in images], "captions": list(captions)}
        answer = self.process.ask(request, [image.tobytes() for image in images])
        if "error" in answer:
            if answer["kind"] in ("MemoryError", "OutOfMemoryError"):
                raise MemoryError(answer["error"])
            raise RuntimeError(f"{answer['kind']}: {_first_line(answer['error'])}")
        return np.array([np.nan if score is None else score for score in answer["scores"]], np.float32)
