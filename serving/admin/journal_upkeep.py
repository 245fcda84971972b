"""What is done for a journal while the service goes on, and told in the log: an error of it fails no load or change."""

from __future__ import annotations

import logging
from pathlib import Path

from serving.error_answer import one_line
from serving.index.ad_table import AdTable
from serving.index.change_set import IndexVersion
from serving.index.journal import compact_records, others, prune
from serving.log_events import log_event

COMPACTED_AFTER = 128  # records: a start replays about as many, at some 5 ms each
KEPT_INDEXES = 16  # whose records stay beside those of the index that is served


def compact_if_long(journal: Path, deltas: Path | None, ads: AdTable) -> None:
    """Compacts the records that lead to the version of these ads if they are many. For a thread of its own.

    `deltas`: directory of the deltas that came before them.
    """
    try:
        if records := compact_records(journal, deltas, ads, COMPACTED_AFTER):
            log_event("journal_compacted", journal=journal, records=records, version=str(ads.version))
    except Exception as e:
        error = None if isinstance(e, ValueError | OSError) else e
        reason = f"{one_line(str(e))}; the records stay, and a start replays each"
        log_event("journal_compacted", logging.WARNING, error=error, outcome="failed", reason=reason)


def left_behind(
    journal: Path | None, served: IndexVersion, before: IndexVersion, journal_before: Path | None
) -> dict[str, int]:
    """Removes the records of old indexes; index_id -> sets of changes of each other index that there are still.

    Args:
      journal, served: of what is served.
      before, journal_before: of what was served before, which may be the same. Without a journal its changes are lost.
    """
    left: dict[str, int] = {}
    if before.sequence and not _goes_on(journal, served, before, journal_before):
        stays = journal is not None and journal == journal_before
        kept = "in the journal" if stays else f"in {journal_before}" if journal_before else "nowhere"
        log_event("left_behind", logging.WARNING, index=before.index_id, changes=before.sequence, kept=kept)
        left = {} if stays else {before.index_id: before.sequence}
    try:
        for removed in prune(journal, served.index_id, KEPT_INDEXES) if journal else ():
            log_event("journal_pruned", logging.WARNING, journal=journal, index=removed)
        if journal and (other_sets := others(journal, served.index_id)):
            log_event("journal_others", journal=journal, indexes=len(other_sets), changes=sum(other_sets.values()))
            left = other_sets | left
    except OSError as e:
        log_event("journal_pruned", logging.WARNING, outcome="failed", reason=one_line(str(e)))
    return left


def _goes_on(journal: Path | None, served: IndexVersion, before: IndexVersion, journal_before: Path | None) -> bool:
    """Whether the changes that led to `before` are among those that led to `served`."""
    is_later = served.index_id == before.index_id and served.sequence > before.sequence
    return served == before or (is_later and journal == journal_before)
