"""Which models a worker runs: opened as they become active, given up as they cease to be, while jobs go on.

A worker knows the journal's activations as of one *generation*, and claims no job of another. The versions that it runs
already stay open over a change; a new one is opened in the background, and until it is its jobs wait in the queue.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from appliance.errors import ApplianceError
from appliance.journal.records import ClaimedJob
from appliance.observability.metrics import Metrics
from appliance.pipeline.model import Gate, Model
from appliance.pipeline.model_thread import ModelClosed, ModelThread

_log = logging.getLogger(__name__)

_CLOSE_PATIENCE_S = 5.0

JobKey = tuple[str, str, bool]
"""Model, version, and whether it is the shadow: what a job says of the model that it is for."""


@dataclass(frozen=True, slots=True)
class Lineup:
    """What a worker should run, as of one generation of the journal's activations.

    Attributes
    ----------
    models
        For each kind of job the package, the precision, and what makes the model of them. One model serves all jobs
        that name the same package and precision.
    """

    generation: int
    models: Mapping[JobKey, tuple[str, str, Callable[[], Model]]]


class _Seat:
    """A model of the worker, and how far it has come: not ready, ready, unusable, over."""

    def __init__(self, model: Model) -> None:
        self.thread = ModelThread(model)
        self.ready = False
        self.unusable: str | None = None
        self.backend: str | None = None
        self.over = False


class Roster:
    """The models of a worker.

    Parameters
    ----------
    read
        Reads what should run now.
    gate
        What has to hold for a model to serve; see ``Model.open``.
    on_open
        Called whenever a model has been opened, or cannot be: its jobs can be claimed.
    """

    def __init__(
        self, read: Callable[[], Lineup], gate: Gate | None, metrics: Metrics, on_open: Callable[[], None]
    ) -> None:
        self._read = read
        self._gate = gate
        self._metrics = metrics
        self._on_open = on_open
        self._seats: dict[tuple[str, str], _Seat] = {}
        self._by_job: dict[JobKey, _Seat] = {}
        self._to_open: queue.SimpleQueue[_Seat | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # over what the metrics show of a model that is opened and let go at once
        self.generation = -1

    def refresh(self) -> list[ModelThread]:
        """Take on what is new and let go what is over; return the models to close once their last job is done.

        Called by the thread that claims jobs, and by it alone.

        Raises
        ------
        ConfigurationError
            What should run cannot be read; nothing has changed.
        """
        lineup = self._read()
        before, self._seats, by_job = self._seats, {}, {}
        # Those that patients wait for first: in this order they are opened.
        for job in sorted(lineup.models, key=lambda job: job[2]):
            package, precision, make = lineup.models[job]
            identity = (package, precision)
            seat = self._seats.get(identity)
            if seat is None:
                seat = before.get(identity)
                if seat is None or seat.unusable is not None:  # then its files may have been mended: it is tried again
                    seat = _Seat(make())
                    self._to_open.put(seat)
                else:
                    del before[identity]
            self._seats[identity] = by_job[job] = seat
        self._by_job, self.generation = by_job, lineup.generation
        with self._lock:
            for seat in before.values():
                seat.over = True
                self._show(seat)
        return [seat.thread for seat in before.values()]

    def opening(self) -> Sequence[JobKey]:
        """The jobs that nobody should claim here yet."""
        return [job for job, seat in self._by_job.items() if not seat.ready]

    def serving(self) -> Sequence[ModelThread]:
        """The models that are open, without those that run in the shadow only."""
        return [
            seat.thread
            for (_, _, shadow), seat in self._by_job.items()
            if seat.ready and seat.unusable is None and not shadow
        ]

    def find(self, job: ClaimedJob) -> ModelThread | str:
        """The model that a claimed job is for, or why there is none."""
        seat = self._by_job.get((job.model, job.model_version, job.shadow))
        if seat is None:
            return f"it is not active here; activate it: appliance models activate {job.model}"
        return seat.unusable or seat.thread

    def open_first(self) -> None:
        """Open what a worker that has just started must have; shadows are left for ``keep_opening``."""
        waited_for = {id(seat) for job, seat in self._by_job.items() if not job[2]}
        while waited_for and not self._stopping.is_set() and (seat := self._to_open.get()) is not None:
            self._open(seat)
            waited_for.discard(id(seat))

    def keep_opening(self) -> None:
        """Open what becomes active, until ``stop``; one after the other, as opening takes memory and cores."""
        while (seat := self._to_open.get()) is not None and not self._stopping.is_set():
            if not seat.over:
                self._open(seat)
                self._on_open()

    def stop(self) -> None:
        """Open nothing more."""
        self._stopping.set()
        self._to_open.put(None)

    def close(self) -> None:
        """Free all models, each on its own thread."""
        for seat in self._seats.values():
            seat.thread.close()
        deadline = time.monotonic() + _CLOSE_PATIENCE_S
        for seat in self._seats.values():
            seat.thread.join(max(0.0, deadline - time.monotonic()))

    def _open(self, seat: _Seat) -> None:
        """Open one model; one that cannot run does not keep the others from running."""
        key, started = seat.thread.manifest.key, time.monotonic()
        try:
            seat.backend = seat.thread.open(self._gate)
        except ModelClosed:
            return
        except ApplianceError as error:
            _log.error("%s cannot run: %s", key, error)
            seat.unusable = str(error)
        else:
            _log.info("%s is warm on %s after %.1f s", key, seat.backend, time.monotonic() - started)
        with self._lock:
            self._show(seat)
        seat.ready = True

    def _show(self, seat: _Seat) -> None:
        manifest = seat.thread.manifest
        labels = (manifest.name, manifest.version, seat.backend or "none")
        serves = seat.backend is not None and not seat.over
        self._metrics.model_ready.labels(*labels).set(serves)
        self._metrics.model_device_bytes.labels(*labels).set(seat.thread.device_bytes if serves else 0)
