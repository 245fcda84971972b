"""Changes of what a service serves, one at a time, made ready in a thread of their own while the service goes on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from serving.admin.carry import load_carrying
from serving.admin.journal_upkeep import compact_if_long, left_behind
from serving.admin.messages import Count, Status
from serving.batching.batcher import Batcher
from serving.error_answer import one_line
from serving.index.ad_index import timestamp
from serving.index.delta import Delta
from serving.index.journal import record, withdraw
from serving.log_events import log_event
from serving.scorer import Scorer
from serving.scorer_updates import PreparedChange, Sources, load
from serving.scoring.programs import Programs
from serving.service.telemetry import ChangeKind, Telemetry, log_serves

R = TypeVar("R")
Event = Literal["load", "reload", "change"]


class LoadError(Exception):
    """A bundle and an index that were not loaded; what was served before goes on. The message has the reason."""


class EndingError(LoadError):
    """The service ends before a load or a change was prepared; nothing has changed."""


_EXPECTED = (ValueError, OSError, EndingError)


class LiveUpdates:
    """The changes of one pair of a service. All methods are for its event loop.

    Attributes:
      model: the name of the pair.
      sources: what is served; at first that with which the service was started.
    """

    def __init__(
        self,
        batcher: Batcher,
        telemetry: Telemetry,
        sources: Sources,
        *,
        ads: bool,
        model: str = "",
        check: Callable[[Scorer], None] = lambda _: None,
    ) -> None:
        """`ads`: whether ads are going to change too. `model`: "" = the first. `check`: raises for a scorer that must
        not serve."""
        self.model, self._check = model or next(iter(batcher.scorers)), check
        self._batcher, self._telemetry, self._ads = batcher, telemetry, ads
        self.sources, self._started_with = _resolved(sources), sources
        self._lock = asyncio.Lock()
        self._reload_waits = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="changes")
        self._preparing: asyncio.Future[Any] | None = None
        self._ending = False
        self._ahead = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compiles ahead")
        self._counts = {"load": Count(0, 0), "change": Count(0, 0)}
        self._last_error: tuple[str, float] | None = None
        version = self.scorer.ads.version
        self._left_behind = left_behind(self.sources.journal, version, version, None)
        self._compacting: Future[None] | None = None
        self._look_ahead()

    async def load(self, sources: Sources, carry: bool = False) -> None:
        """Loads, verifies and compiles, then switches between two batches. Raises `LoadError`.

        `carry`: makes the changes of the index that is served to the other index too, as far as they apply.
        """
        await self._load(sources, "load", carry)

    async def _load(self, sources: Sources, event: Event, carry: bool = False) -> None:
        async def switch() -> None:
            if event == "reload":
                self._reload_waits = False
            old, wanted = self.scorer, _resolved(sources)
            limits: Any = {"max_k": old.max_k, "max_candidates": old.max_candidates, "like": old}
            paths = wanted.bundle, wanted.index, wanted.deltas, wanted.journal
            make = partial(load, *paths, live=self._ads, **limits)
            now = self.sources
            if carry:
                made = partial(load_carrying, make, old, now.deltas, now.journal, wanted.journal)
                scorer, delta = await self._prepare(made)
            else:
                scorer, delta = await self._prepare(make), None
            self._check(scorer)
            await self._keep(wanted.journal, delta, lambda _: (scorer, None))
            self.sources = wanted
            versions = scorer.ads.version, old.ads.version
            self._left_behind = await self._run(partial(left_behind, wanted.journal, *versions, now.journal))

        try:
            await self._attempt("load", switch, event)
        except Exception as e:
            reason = str(e) if isinstance(e, _EXPECTED) else f"{type(e).__name__}: {e}"
            raise LoadError(f"not loaded, {self.scorer.index_id[:12]} goes on: {reason}") from e

    async def reload(self) -> None:
        """Loads what the service was started with, which may be something else by now. An error is only logged.

        Does nothing while another reload waits for its turn: that one loads the newest too.
        """
        if not self._reload_waits:
            self._reload_waits = True
            with contextlib.suppress(LoadError):  # counted and logged
                await self._load(self._started_with, "reload")

    async def change(self, make: Callable[[Scorer], PreparedChange]) -> None:
        """Changes ads between two batches, once `make` has prepared that in the thread of changes.

        If there is a journal, the change is stored there first. Nothing has changed after an error: `ChangeError` or
        `DeltaError` of a bad change, `EndingError` when the service ends, OSError or `PublishError` of the journal.
        """

        async def switch() -> None:
            change = await self._prepare(lambda: make(self.scorer))
            await self._keep(self.sources.journal, change.delta, lambda scorer: (change.apply(scorer), None))

        await self._attempt("change", switch, "change")

    async def _keep(
        self, journal: Path | None, delta: Delta | None, switch: Callable[[Scorer], tuple[Scorer, None]]
    ) -> None:
        """Switches between two batches, once the journal has the delta; not in it if that raises."""
        kept = journal and delta and await self._run(partial(record, journal, delta))
        try:
            await self._batcher.between(switch, self.model)
        except Exception:
            if kept:
                await self._run(partial(withdraw, kept))
            raise

    @property
    def scorer(self) -> Scorer:
        """That serves."""
        return self._batcher.scorers[self.model]

    def status(self, ready: bool, weights: dict[str, float]) -> Status:
        """What is served. `weights`: of the pairs of its model."""
        scorer, now = self.scorer, time.time()
        version, sources = scorer.ads.version, self.sources
        return Status(
            ready=ready,
            model=self.model,
            models=list(self._batcher.scorers),
            weights=weights,
            bundle=str(sources.bundle),
            index=str(sources.index),
            deltas=None if sources.deltas is None else str(sources.deltas),
            journal=None if sources.journal is None else str(sources.journal),
            fingerprint=scorer.fingerprint,
            version=str(version),
            index_id=version.index_id,
            sequence=version.sequence,
            chain=version.chain,
            ads=scorer.index_size,
            eligible_ads=scorer.eligible,
            places=scorer.programs.places,
            memory_bytes=scorer.memory,
            age_seconds=now - timestamp(scorer.ads.created),
            loads=self._counts["load"],
            changes=self._counts["change"],
            left_behind=self._left_behind,
            last_error=self._last_error and self._last_error[0],
            last_error_seconds=self._last_error and now - self._last_error[1],
        )

    def abandon(self) -> None:
        """Gives up the load or change that is being prepared: it raises `EndingError`, as all later ones do. What is
        being written to the journal is awaited."""
        self._ending = True
        if self._preparing is not None:
            self._preparing.cancel()

    def close(self) -> None:
        """Takes nothing more. The threads end when they have done what they are at, which may take minutes."""
        for thread in (self._thread, self._ahead):
            thread.shutdown(wait=False, cancel_futures=True)

    async def _prepare(self, work: Callable[[], R]) -> R:
        """In the thread, unless the service ends before."""
        if not self._ending:
            self._preparing = asyncio.ensure_future(self._run(work))
            try:
                return await self._preparing
            except asyncio.CancelledError:
                if not self._ending:
                    raise
            finally:
                self._preparing = None
        raise EndingError("the service is ending")

    async def _run(self, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _attempt(self, kind: ChangeKind, switch: Callable[[], Awaitable[None]], event: Event) -> None:
        async with self._lock:
            count, start = self._counts[kind], time.monotonic()
            if kind == "load":
                log_event(event, outcome="started", model=self.model)
            try:
                await switch()
            except Exception as e:
                expected = isinstance(e, _EXPECTED)
                told: Any = {"model": self.model, "reason": one_line(str(e)), "goes_on": self.scorer.index_id}
                log_event(event, logging.WARNING, error=None if expected else e, outcome="failed", **told)
                self._last_error = one_line(f"{kind}: {e}"), time.time()
                self._telemetry.failed(kind, self.model)
                count.failed += 1
                raise
            count.done += 1
            log_serves(event, self.model, self.scorer, start)
            self._telemetry.changed(kind, self.model, self.scorer)
            self._look_ahead()

    def _look_ahead(self) -> None:
        """What need not be awaited: compiles for more ads while there is still room, and compacts the journal."""
        scorer, journal = self.scorer, self.sources.journal
        if journal and (self._compacting is None or self._compacting.done()):
            self._compacting = self._ahead.submit(compact_if_long, journal, self.sources.deltas, scorer.ads)
        if self._ads and scorer.programs.nearly_full(scorer.index_size):
            self._ahead.submit(_compile_ahead, scorer.programs)


def _resolved(sources: Sources) -> Sources:
    """With the deltas and the journal that links lead to now: later they may lead to those of another index."""
    deltas, journal = (path and path.resolve() for path in (sources.deltas, sources.journal))
    return replace(sources, deltas=deltas, journal=journal)


def _compile_ahead(programs: Programs) -> None:
    try:
        programs.compile_ahead()
    except Exception as e:
        log_event("compile_ahead", logging.WARNING, error=e, outcome="failed")  # the change that needs it will do it
