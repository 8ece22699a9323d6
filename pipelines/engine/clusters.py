"""Which Ray cluster a command means: only one that somebody named, never any that happens to run on the machine."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from infra.base import own_cluster
from infra.base.errors import UserError

SERVERS = ("http://", "https://")  # the job server's address, which `ray job submit` takes
MAKE = "`make cluster`"
PATIENCE = 10.0  # seconds that a cluster's port has to answer


@dataclass(frozen=True)
class Cluster:
    """A cluster that a command is to use."""

    address: str  # as ray.init takes it
    named_by: str  # who names it, the subject of a sentence


def named() -> Cluster | None:
    """Return the cluster that RAY_ADDRESS names (a job finds its own there), or that `make cluster` runs here.

    Raises:
        UserError: if RAY_ADDRESS is the address of a job server, or no address.
    """
    given = os.environ.get("RAY_ADDRESS", "")
    is_server = given.startswith(SERVERS)
    if given and not is_server and given != "local":
        if given == "auto":
            raise UserError("RAY_ADDRESS auto: names no cluster; give HOST:PORT, or unset it to use none")
        return Cluster(given, "RAY_ADDRESS")
    if own_cluster.is_running():
        return Cluster(own_cluster.ADDRESS, MAKE)
    if is_server:
        raise UserError(
            f"RAY_ADDRESS {given}: is a job server's; submit this command with `ray job submit --`, or give HOST:PORT"
        )
    return None


def take_token() -> None:
    """Let Ray, which reads this when it is imported, show the token of `make cluster` where that cluster is used."""
    cluster = named()
    folder = own_cluster.runs()
    if cluster is not None and cluster.named_by == MAKE and folder is not None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN_PATH", str(folder / own_cluster.TOKEN_FILE))


def refuse_dead(cluster: Cluster) -> None:
    """Refuse a cluster at whose address nothing answers: Ray itself would ask there for minutes.

    Raises:
        UserError: naming the address.
    """
    host, _, port = cluster.address.rpartition("/")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
    except (OSError, ValueError, OverflowError):
        raise UserError(
            f"{cluster.named_by} {cluster.address}: no Ray cluster answers there; start it, or unset RAY_ADDRESS"
        ) from None
