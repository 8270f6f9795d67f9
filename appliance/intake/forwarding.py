"""Which destinations get a received image, as it came."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from appliance.config.settings import Destination
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

    def destinations(self, attributes: Attributes) -> list[str]:
        """Names of those that get an image with these attributes."""
        modality = attributes.get("Modality")
        return [name for name, wanted in self._modalities.items() if wanted is None or modality in wanted]

    def wake(self, destinations: Sequence[str]) -> None:
        """Tell the senders to these that there is something for them, unless they have just been told."""
        now = time.monotonic()
        for name in destinations:
            if now - self._woken_at.get(name, 0.0) > _HINT_S:
                self._woken_at[name] = now
                send_hint(self._run_folder, f"sender-{name}")
