"""Noticing that another version of a model serves, without a restart of the role."""

from __future__ import annotations

import logging
from collections.abc import Callable

from appliance.errors import ApplianceError
from appliance.journal.hints import HintSocket
from appliance.observability.guarded_thread import GuardedThread
from appliance.services.models import ActiveModels

_log = logging.getLogger(__name__)

_POLL_S = 1.0
"""A hint may be lost: a change is noticed after this at the latest."""


class ActivationWatch:
    """One thread that compares the journal's generation with the one that this role knows.

    Parameters
    ----------
    read
        Reads the models that are used now.
    generation
        Of the journal's activations: one row by its key, cheap enough to ask for every second.
    known
        The generation that the role has begun with.
    changed
        Called with the models, on the watch's own thread, whenever the generation is another one.
    """

    def __init__(
        self,
        read: Callable[[], ActiveModels],
        generation: Callable[[], int],
        known: int,
        changed: Callable[[ActiveModels], None],
        hints: HintSocket,
        *,
        on_fatal: Callable[[], None],
    ) -> None:
        self._read = read
        self._generation = generation
        self._known = known
        self._changed = changed
        self._hints = hints
        self._stopping = False
        self._complaint: str | None = None
        self._thread = GuardedThread("activation-watch", self._run, on_fatal)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping = True
        self._thread.end(2 * _POLL_S)
        self._hints.close()

    def _run(self) -> None:
        while not self._stopping:
            self._hints.wait(_POLL_S)
            if self._generation() != self._known:
                self._look()

    def _look(self) -> None:
        """Read what is used now; what cannot be read leaves all as it is until it can."""
        try:
            models = self._read()
        except ApplianceError as error:
            if str(error) != self._complaint:
                _log.error("the models stay as they are: %s", error)
            self._complaint = str(error)
            return
        self._complaint, self._known = None, models.generation
        for complaint in models.complaints():
            _log.warning("%s", complaint)
        self._changed(models)
        served = ", ".join(f"{model.manifest.key}{' (shadow)' * model.shadow}" for model in models.models)
        _log.info("generation %d of the models: %s", models.generation, served or "none")
