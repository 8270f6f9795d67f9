"""A model with a thread of its own: it is opened while others serve, and closed by the thread that opened it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, MutableMapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from appliance.domain.image import Image
from appliance.domain.result import InferenceResult
from appliance.errors import ApplianceError
from appliance.imaging.loading import LoadedImage
from appliance.imaging.source import ImageSource
from appliance.pipeline.model import FirstTensor, Gate, Model

T = TypeVar("T")


class ModelClosed(ApplianceError):
    """The model was closed before: another version took its place."""


class ModelThread:
    """Runs what has to do with a model's sessions on one thread, from ``open`` to ``close``.

    A device context belongs to one thread for life, and opening a network takes seconds to minutes, in which the
    others have to go on.
    """

    def __init__(self, model: Model) -> None:
        self.manifest = model.manifest
        self._model = model
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # nothing is asked for after the end has been
        self._over = False
        # A daemon: a model that is stuck in native code must not keep the process from ending.
        self._thread = threading.Thread(target=self._serve, name=f"model {model.manifest.key}", daemon=True)
        self._thread.start()

    def open(self, gate: Gate | None) -> str:
        """See ``Model.open``; waits for it. Raises ``ModelClosed`` when the model is given up already."""
        return self._call(lambda: self._model.open(gate))

    @property
    def device_bytes(self) -> int:
        """See ``Model.device_bytes``."""
        return self._model.device_bytes

    def load(self, paths: Sequence[Path], source: ImageSource) -> LoadedImage:
        """See ``Model.load``; on the thread of whoever calls, as it needs no session."""
        return self._model.load(paths, source)

    def prepare(self, image: Image) -> FirstTensor:
        """See ``Model.prepare``; on the thread of whoever calls."""
        return self._model.prepare(image)

    def judge(self, image: Image, stages: MutableMapping[str, float], first: FirstTensor) -> InferenceResult:
        """See ``Model.judge``; waits for it."""
        return self._call(lambda: self._model.judge(image, stages, first))

    def close(self) -> None:
        """Free the networks once all that was asked for before is done, and end the thread; does not wait."""
        with self._lock:
            self._over = True
            self._tasks.put((Future(), self._model.close))
            self._tasks.put(None)

    def join(self, timeout_s: float) -> None:
        """Wait for the end that ``close`` has asked for."""
        self._thread.join(timeout_s)

    def _call(self, function: Callable[[], T]) -> T:
        future: Future[T] = Future()
        with self._lock:
            if self._over:
                raise ModelClosed(f"{self.manifest.key} is given up")
            self._tasks.put((future, function))
        try:
            return future.result()
        finally:
            # An exception refers to this frame, and this frame to the future that holds the exception: images that
            # hang on such a circle stay until the garbage collector comes, which it does seldom here.
            del future

    def _serve(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, function = task
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
                future.set_exception(error)
            del task, future, function
