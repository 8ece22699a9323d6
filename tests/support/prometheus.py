"""What a cluster exports for Prometheus, read as Prometheus reads it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path


def scrape(environment: dict[str, str]) -> str:
    """Read what the cluster's nodes export, found as Prometheus finds them."""
    token = Path(environment["RAY_AUTH_TOKEN_PATH"]).read_text().strip()
    ask = urllib.request.Request(f"{environment['RAY_API_SERVER_ADDRESS']}/api/prometheus/sd")
    ask.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(ask, timeout=30) as answer:
        targets = json.loads(answer.read())[0]["targets"]
    pages = []
    for target in targets:
        try:
            page = urllib.request.urlopen(f"http://{target}/metrics", timeout=30)
        except urllib.error.URLError:
            continue  # of a node that another test killed: it is listed for a while
        with page:
            pages.append(page.read().decode())
    return "".join(pages)


def values(text: str, name: str, label: str) -> float:
    """Add up a metric's values with a label over all processes."""
    lines = [line for line in text.splitlines() if line.startswith(f"{name}{{") and label in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines)
