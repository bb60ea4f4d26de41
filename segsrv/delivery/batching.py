"""What a sink gets of a bundle: filtered, without repetitions, transformed; and the same again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from segsrv.delivery import bundle as bundles
from segsrv.delivery.bundle import Bundle, Filter, Limits, Slice, batch_of
from segsrv.delivery.disk import DiskThread
from segsrv.delivery.judging import Judge
from segsrv.delivery.spool import Spool
from segsrv.delivery.standing import ShipperStats, Standing
from segsrv.delivery.transforming import MARK, Transforming
from segsrv.sinks.base import Batch, Ends

logger = logging.getLogger(__name__)


class Batching:
    """Makes a shipper's batches, on its loop; blocking work goes to *disk*.

    *chain* is what events go through, in this order, and what has the batches that were transformed
    earlier, also where none is any more.
    """

    def __init__(
        self,
        standing: Standing,
        disk: DiskThread,
        stats: ShipperStats,
        chain: tuple[Filter, Judge | None, Transforming | None, Spool | None],
    ) -> None:
        self._standing = standing
        self._disk = disk
        self._stats = stats
        self.picks, self._judge, self._transforming, self._spool = chain

    @property
    def is_transforming(self) -> bool:
        """Whether functions are in the way of events, for now."""
        return self._transforming is not None and self._transforming.has_functions

    def limits(self, limits: Limits) -> Limits:
        """Return how much is to be read for a batch within *limits*."""
        return limits if self._transforming is None else self._transforming.limits(limits)

    async def batch(self, bundle: Bundle, batch_id: str) -> Batch | None:
        """Return what the sink gets of *bundle*; None if that is nothing."""
        slices = await self._picked(bundle)
        if self._transforming is None or not slices:
            return batch_of(batch_id, slices, self._ends(bundle)) if slices else None
        return await self._transforming.batch(
            batch_id,
            slices,
            self._ends(bundle),
            disk=self._disk,
            needed=self._standing.file.batch_ids,
        )

    async def again(self, bundle: Bundle, batch_id: str) -> Batch | None:
        """Return the batch of *bundle* that was called so, as it was."""
        if batch_id.endswith(MARK) and (spool := self._spool) is not None:
            batch = await self._disk.until_done(partial(spool.load, batch_id))
            if batch is not None:
                batch.ends = self._ends(bundle)
                return batch
            logger.error("transform: a kept batch is gone, made again sink=%s", self._standing.name)
            return await self.batch(bundle, batch_id.removesuffix(MARK))
        slices = await self._picked(bundle)
        return batch_of(batch_id, slices, self._ends(bundle)) if slices else None

    async def close(self) -> None:
        """Let go of the index, and of the process that transforms."""
        if self._judge is not None:
            self._judge.close()
        if self._transforming is not None:
            await self._transforming.close()

    async def _picked(self, bundle: Bundle) -> Sequence[Slice]:
        slices = bundle.slices
        if picks := self.picks:
            slices = picks.pick(slices)
            self._stats.filtered_events += bundle.events - bundles.count(slices)
        if self._judge is not None and slices:
            slices = await self._disk.until_done(partial(self._judge.pick, slices))
        return slices

    def _ends(self, bundle: Bundle) -> Ends:
        # Of all journals: what a sink keeps is whole, and nothing in it older than the batch's id.
        return {**self._standing.ends(), **bundle.ends}
