"""A network of its own for one node, which can be lost: for infra/chaos.py; needs root and iproute2's `ip`."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

from infra.base.errors import UserError

NOWHERE = "02:00:00:00:00:01"  # a hardware address that nobody has


@dataclass(frozen=True)
class Place:
    """A network namespace joined to this machine by one cable."""

    name: str
    outside: str  # this machine's end
    inside: str  # the other end

    @property
    def command(self) -> list[str]:
        """Return what runs a command there."""
        return ["ip", "netns", "exec", self.name]


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"ip {' '.join(words)}: {done.stderr.strip()}; a lost network needs root")
    return done.stdout


@contextlib.contextmanager
def apart() -> Iterator[Place]:
    """Hold a network namespace, a cable to it, and addresses at both its ends.

    Raises:
        UserError: without the rights, or without `ip`.
    """
    number = os.getpid() % 250 + 1
    name = f"dpo{os.getpid()}"
    place = Place(name, f"10.213.{number}.1", f"10.213.{number}.2")
    _ip("netns", "add", name)
    try:
        _ip("link", "add", name, "type", "veth", "peer", "name", "cable", "netns", name)
        _ip("address", "add", f"{place.outside}/24", "dev", name)
        _ip("link", "set", name, "up")
        _ip("-n", name, "address", "add", f"{place.inside}/24", "dev", "cable")
        _ip("-n", name, "link", "set", "cable", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "route", "add", "default", "via", place.outside)
        yield place
    finally:
        _ip("netns", "delete", name)  # the cable goes with it


def lose(place: Place, seconds: float) -> None:
    """Let everything sent over the cable, either way, arrive nowhere for a while, as where a plug is pulled."""
    ends = (("neigh",), place.inside, place.name), (("-n", place.name, "neigh"), place.outside, "cable")
    for words, to, device in ends:
        _ip(*words, "replace", to, "lladdr", NOWHERE, "dev", device)
    time.sleep(seconds)
    for words, to, device in ends:
        _ip(*words, "del", to, "dev", device)
