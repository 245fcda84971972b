"""SVG of the text files beside this script, boxes and arrows: `python docs/pictures/draw.py` writes all.

A line is the title (`title: ...`), a row of boxes (`name: first line / second line | name: ...`; `.` leaves a place of
the row empty) or an arrow (`name -> name`, `name -> name: label`). Rows stand below each other. An arrow goes from the
lower edge of a box to the upper edge of one in a later row, or to the next box of its row. A text that is too wide, and
an arrow that would cross a box, are errors. The drawings are 400 units wide, to be read on a phone, and follow the
reader's light or dark theme.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
WIDTH, MARGIN, GAP, LINE = 400, 10, 12, 17  # units; LINE: from one line of text to the next
ARROW = 34  # units between two rows, for arrows and their labels
LETTER = 6.4  # units a letter takes at most, in the mean of a line
_ARROW = re.compile(r"(\w+) -> (\w+)(?:: (.+))?")
_STYLE = """<style>
  svg { background: #fff; font: 12px system-ui, sans-serif; fill: #1b1f24; text-anchor: middle }
  .box { fill: #eef3fb; stroke: #5b7db1 } .arrow { stroke: #5b7db1; stroke-width: 1.5 } .head { fill: #5b7db1 }
  .first { font-weight: 600 }
  .label { text-anchor: start; font-style: italic; paint-order: stroke; stroke: #fff; stroke-width: 5 }
  @media (prefers-color-scheme: dark) {
    svg { background: #14171c; fill: #e6edf3 }
    .box { fill: #1f2a3a; stroke: #7f9cc9 } .arrow { stroke: #7f9cc9 } .head { fill: #7f9cc9 }
    .label { stroke: #14171c }
  }
</style>"""


@dataclass(frozen=True)
class Box:
    """A box with its place, in units; `lines`: its text."""

    lines: tuple[str, ...]
    left: float
    top: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.left + self.width / 2

    @property
    def bottom(self) -> float:
        return self.top + self.height


def drawn(text: str) -> str:
    """The SVG of a description. Raises `ValueError` that names the line, box or arrow that is wrong."""
    title, boxes, arrows, top = "", {}, [], float(MARGIN)
    for line in (line.strip() for line in text.splitlines() if line.strip()):
        if line.startswith("title: "):
            title = line.removeprefix("title: ")
        elif arrow := _ARROW.fullmatch(line):
            arrows.append(arrow.groups(""))
        else:
            row = _row(line, top)
            boxes |= row
            top = max(box.bottom for box in row.values()) + ARROW
    parts = [_box(box) for box in boxes.values()]
    parts += [_arrow(boxes, source, target, label) for source, target, label in arrows]
    height = top - ARROW + MARGIN
    size = f'width="{WIDTH}" height="{height:g}" viewBox="0 0 {WIDTH} {height:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<title>{escape(title)}</title>'
    return "\n".join([head, _STYLE, *parts, "</svg>", ""])


def _row(line: str, top: float) -> dict[str, Box]:
    cells = [cell.strip() for cell in line.split(" | ")]
    width = (WIDTH - 2 * MARGIN - GAP * (len(cells) - 1)) / len(cells)
    texts = {i: cell.partition(": ") for i, cell in enumerate(cells) if cell != "."}
    height = 12 + LINE * max(text.count(" / ") + 1 for _, _, text in texts.values())
    row = {}
    for i, (name, _, text) in texts.items():
        row[name] = Box(tuple(text.split(" / ")), MARGIN + i * (width + GAP), top, width, height)
        for words in row[name].lines:
            if not words or len(words) * LETTER > width:
                raise ValueError(f"box {name}: {words!r} does not fit into {width:.0f} units")
    return row


def _box(box: Box) -> str:
    place = f'x="{box.left:g}" y="{box.top:g}" width="{box.width:g}" height="{box.height:g}"'
    first = box.top + box.height / 2 - LINE * len(box.lines) / 2 + 13
    lines = [
        f'<text class="{"other" if i else "first"}" x="{box.middle:g}" y="{first + i * LINE:g}">{escape(words)}</text>'
        for i, words in enumerate(box.lines)
    ]
    return "\n".join([f'<rect class="box" rx="6" {place}/>', *lines])


def _arrow(boxes: dict[str, Box], source: str, target: str, label: str) -> str:
    for name in (source, target):
        if name not in boxes:
            raise ValueError(f"arrow {source} -> {target}: there is no box {name}")
    start, end = boxes[source], boxes[target]
    x1, y1, x2, y2 = start.middle, start.bottom, end.middle, end.top
    if start.top == end.top and round(end.left - start.left - start.width) == GAP:
        y1 = y2 = start.top + start.height / 2
        x1, x2 = end.left - GAP, end.left
    elif y2 <= y1:
        raise ValueError(f"arrow {source} -> {target}: {target} stands neither in a later row nor next to {source}")
    for name, box in boxes.items():
        if y1 < box.top and box.bottom < y2:
            at = [x1 + (x2 - x1) * (y - y1) / (y2 - y1) for y in (box.top, box.bottom)]
            if min(at) < box.left + box.width and max(at) > box.left:
                raise ValueError(f"arrow {source} -> {target}: crosses {name}")
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    along, up = (x2 - x1) / length, (y2 - y1) / length
    foot = x2 - 8 * along, y2 - 8 * up
    corners = [(x2, y2), (foot[0] - 4 * up, foot[1] + 4 * along), (foot[0] + 4 * up, foot[1] - 4 * along)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    line = f'<line class="arrow" x1="{x1:g}" y1="{y1:g}" x2="{foot[0]:.1f}" y2="{foot[1]:.1f}"/>'
    words = f'\n<text class="label" x="{(x1 + x2) / 2 + 8:g}" y="{(y1 + y2) / 2 + 4:g}">{escape(label)}</text>'
    return f'{line}\n<polygon class="head" points="{points}"/>' + (words if label else "")


if __name__ == "__main__":
    for description in sorted(HERE.glob("*.txt")):
        description.with_suffix(".svg").write_text(drawn(description.read_text()))
