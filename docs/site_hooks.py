"""What `mkdocs build` does besides: links to files of the repository become plain text, sections get their order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

SECTIONS = ("Tutorials", "How to", "Reference", "Explanation", "Log")
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s:#]+)(?:#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """A site has no source files to link to. A link to one that does not exist stays, and fails the strict build."""
    docs, here = Path(config.docs_dir).resolve(), Path(page.file.abs_src_path).parent

    def outside(link: re.Match[str]) -> str:
        target = (here / link[2]).resolve()
        return link[1] if target.exists() and not target.is_relative_to(docs) else link[0]

    return _LINK.sub(outside, markdown)


def on_nav(nav: Any, **_: Any) -> Any:
    """Pages first, then sections in the order in which a reader comes to need them."""
    nav.items.sort(key=lambda item: SECTIONS.index(item.title) if item.is_section else -1)
    return nav
