"""Images for a judge behind an address, and its scorer."""

from __future__ import annotations

from PIL import Image

from labelers.scoring import endpoint, scorers
from labelers.scoring.endpoint_config import EndpointConfig
from support.chat_server import ChatServer

RED, PINK, BLUE = (Image.new("RGB", (8, 6), colour) for colour in ("red", "#cc8888", "blue"))


def scorer(server: ChatServer, config: EndpointConfig) -> endpoint.EndpointScorer:
    """Return the scorer of a server's address."""
    ((name, described),) = scorers.described([server.address], (), config).items()
    made = scorers.load(name, described)
    assert isinstance(made, endpoint.EndpointScorer)
    return made
