"""How the values of a log are written as text. A fact of its files, not of the schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# Texts by which public logs mean that there is no value.
MARKERS = ("\\N", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "Null", "null", "(null)", "None", "nil",
           "-", "--", "?", ".", "NaT", "0000-00-00", "0000-00-00 00:00:00")  # fmt: skip
JSON = "json"
DELIMITERS = (",", "\t", ";", "|", "\x01")  # of CSV, as files have them


@dataclass(frozen=True)
class TextFormat:
    """What text does not tell by itself.

    Attributes:
      delimiter: between the cells of CSV, one byte; "" = a tab in `.tsv`, else a comma.
      missing: texts that stand for a missing value, as `\\N`, `NA` or `-`; an empty text always does.
      separators: column -> what stands between the elements of its lists or vectors written as text: one or more
        characters, as `|`, `^`, a space, `;`, a tab; or `json`, a JSON array, which is what is expected without.
      quotes: whether cells of CSV that hold a delimiter or a line end have quotes around them; else a quote is text.
    """

    delimiter: str = ""
    missing: tuple[str, ...] = ()
    separators: Mapping[str, str] = field(default_factory=dict)
    quotes: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be a delimiter or a separator."""
        if self.delimiter and (len(self.delimiter.encode()) != 1 or self.delimiter in '"\r\n'):
            raise ValueError(f"delimiter: expected one ASCII character, no quote or line end, got {self.delimiter!r}")
        for column, separator in self.separators.items():
            if not separator:
                raise ValueError(f"separators: of column {column!r}: expected a text between elements, got ''")


PLAIN = TextFormat()
