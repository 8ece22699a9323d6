"""HTML pages that load nothing from elsewhere: their templates, and images embedded in them."""

from __future__ import annotations

import base64
import io
import re
from html import escape
from pathlib import Path

import jinja2
from PIL import Image

SHARED = Path(__file__).parent / "templates"  # what every page extends


def template(name: str, folder: Path = SHARED) -> jinja2.Template:
    """Load a template that escapes every text and refuses a name it was not given.

    Args:
        folder: where it lies; what it extends or imports lies there too, or is shared by all pages.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, SHARED]), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["unbroken"] = unbroken
    environment.filters["titled"] = titled
    return environment.get_template(name)


def unbroken(text: str) -> str:
    """Keep figures of a sentence on one line: no break in "21.9 to 90.8" or before a percent sign."""
    return re.sub(r"(?<=\d) (to|%)(?: (?=[+-]?\d))?", lambda span: span[0].replace(" ", "\u00a0"), text)


def titled(svg: str, title: str) -> str:
    """Return an <svg> element of our own with a name, for those who cannot see it."""
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)


def data_uri(content: bytes, side: int) -> str:
    """Embed the bytes of a PNG in a page, at most side pixels wide and high: JPEG from 256 pixels on, else PNG."""
    image = Image.open(io.BytesIO(content), formats=("PNG",)).convert("RGB")
    image.thumbnail((side, side))
    kind = "PNG" if max(image.size) < 256 else "JPEG"
    buffer = io.BytesIO()
    image.save(buffer, format=kind, quality=92)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
