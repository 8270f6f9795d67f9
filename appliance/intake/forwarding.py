"""Which destinations get a received image, as it came."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from appliance.config.settings import Destination, DicomDestination
from appliance.domain.attributes import Attributes
from appliance.journal.hints import send_hint

_HINT_S = 0.1
"""A sender that was woken for an image looks again by itself for those that follow within this time."""


class Forwarding:
    """The destinations that ask for images (``destinations[].forward``).

    Parameters
    ----------
    run_folder
        Where the senders' wake-up sockets are.
    """

    def __init__(self, destinations: Sequence[Destination], run_folder: Path) -> None:
        self._run_folder = run_folder
        self._woken_at: dict[str, float] = {}  # by time.monotonic
        self._modalities = {
            destination.name: None if destination.forward.modalities is None else set(destination.forward.modalities)
            for destination in destinations
            if destination.forward is not None
        }
        self._ae_titles = {
            destination.name: destination.ae_title.strip() if isinstance(destination, DicomDestination) else None
            for destination in destinations
        }

    def destinations(self, attributes: Attributes, sender: str = "") -> list[str]:
        """Names of those that get an image with these attributes.

        None gets back what it sent itself: an archive that sends all that it gets to the appliance would go round for
        ever with it. ``sender`` is the calling AE title, empty where there is none.
        """
        modality = attributes.get("Modality")
        return [
            name
            for name, wanted in self._modalities.items()
            if (wanted is None or modality in wanted) and (not sender or self._ae_titles[name] != sender.strip())
        ]

    def wake(self, destinations: Sequence[str]) -> None:
        """Tell the senders to these that there is something for them, unless they have just been told."""
        now = time.monotonic()
        for name in destinations:
            if now - self._woken_at.get(name, 0.0) > _HINT_S:
                self._woken_at[name] = now
                send_hint(self._run_folder, f"sender-{name}")
