"""HTML pages: what they load, and text that must be escaped."""

from __future__ import annotations

from html.parser import HTMLParser

EVIL = "<script>alert('x')</script> & \"quotes\" <img src=https://example.org/x>"


class Page(HTMLParser):
    """Collects a page's tags, what they load, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loaded: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loaded += [value or "" for name, value in attrs if name.split(":")[-1] in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.text += data
