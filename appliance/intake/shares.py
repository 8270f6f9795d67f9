"""What one association, sub-folder or archive has brought of each series, and what may be concluded from its end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from appliance.intake.store import Acceptance, Outcome


@dataclass(slots=True)
class _Share:
    images: int = 0
    series_id: int | None = None


class SeriesShares:
    """Images by series; frames count as images.

    Duplicates count too, as a resend brings a series as well; what was kept apart as a conflict does not.
    """

    def __init__(self) -> None:
        self._shares: dict[str, _Share] = {}

    def __len__(self) -> int:
        return len(self._shares)

    def add(self, acceptance: Acceptance) -> None:
        """Note an instance that was taken in."""
        if acceptance.outcome is Outcome.CONFLICT:
            return
        share = self._shares.setdefault(acceptance.series_instance_uid, _Share())
        share.images += acceptance.images
        if acceptance.series_id is not None:
            share.series_id = acceptance.series_id

    def whole(self, others: Iterable[SeriesShares] = ()) -> list[int]:
        """The series (ids of the journal) that may honestly be taken to be whole once this sender is done.

        Not those of which it brought a single image: senders that open an association, or make an archive, for each
        image are common. Not those that one of ``others``, which are not done yet, has brought images of.
        """
        elsewhere = {uid for other in others for uid in other._shares}
        return [
            share.series_id
            for uid, share in self._shares.items()
            if share.series_id is not None and share.images >= 2 and uid not in elsewhere
        ]
