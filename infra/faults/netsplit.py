"""Give one node a network of its own, and take it away: for infra/chaos.py; it needs root and iproute2's `ip`."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

from infra.base.errors import UserError

NOWHERE = "02:00:00:00:00:01"  # a hardware address that no device has


@dataclass(frozen=True)
class Place:
    """A network namespace that one cable joins to this machine."""

    name: str
    outside: str  # address of this machine's end of the cable
    inside: str  # address of the other end

    @property
    def command(self) -> list[str]:
        """Return the words that run the command after them in the namespace."""
        return ["ip", "netns", "exec", self.name]


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"ip {' '.join(words)}: {done.stderr.strip()}; run it as root, as only root makes networks")
    return done.stdout


@contextlib.contextmanager
def apart() -> Iterator[Place]:
    """Hold a network namespace, a cable to it, and addresses at both its ends.

    Raises:
        UserError: if this process may not make one, as it may only as root.
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
        _ip("netns", "delete", name)  # this removes the cable too


def lose(place: Place, seconds: float) -> None:
    """Lose everything sent over the cable, both ways, for some seconds, as if its plug were pulled."""
    ends = (("neigh",), place.inside, place.name), (("-n", place.name, "neigh"), place.outside, "cable")
    for words, to, device in ends:
        _ip(*words, "replace", to, "lladdr", NOWHERE, "dev", device)
    time.sleep(seconds)
    for words, to, device in ends:
        _ip(*words, "del", to, "dev", device)
