"""A page of HTML, read."""

from __future__ import annotations

import html.parser


class Page(html.parser.HTMLParser):
    """What a page refers to, and the text of its links to rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.add(str(value))
            if name == "href" and tag == "a":
                self.links.append(str(value))
            if name in ("src", "srcset", "data") or (name == "href" and tag == "link"):
                self.sources.append(str(value))
