"""A model's own thread: the same one from open to close, and what happens around its end."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.errors import InferenceFailed
from appliance.pipeline.model_thread import ModelClosed, ModelThread


class Model:
    """Notes on which thread it is called; judging waits until it may."""

    def __init__(self) -> None:
        self.manifest = SimpleNamespace(key="model/1.0.0")
        self.calls: list[tuple[str, int]] = []
        self.may_judge = threading.Event()

    def open(self, gate: object) -> str:
        self.calls.append(("open", threading.get_ident()))
        return "fake"

    def judge(self, image: Any, stages: Any, first: Any) -> Any:
        assert self.may_judge.wait(30)
        self.calls.append(("judge", threading.get_ident()))
        raise InferenceFailed("no memory")

    def close(self) -> None:
        self.calls.append(("close", threading.get_ident()))


@pytest.fixture
def model() -> Model:
    return Model()


def test_everything_happens_on_one_thread_of_its_own(model: Model) -> None:
    thread = ModelThread(model)  # type: ignore[arg-type]
    assert thread.open(None) == "fake"
    model.may_judge.set()
    with pytest.raises(InferenceFailed, match="no memory"):
        thread.judge(None, {}, None)  # type: ignore[arg-type]
    thread.close()
    thread.join(30)
    assert [name for name, _ in model.calls] == ["open", "judge", "close"]
    (ident,) = {ident for _, ident in model.calls}
    assert ident != threading.get_ident()


def test_nothing_is_asked_for_after_it(model: Model) -> None:
    """Whoever asked would wait for ever."""
    thread = ModelThread(model)  # type: ignore[arg-type]
    thread.close()
    with pytest.raises(ModelClosed):
        thread.open(None)
    thread.join(30)
    assert [name for name, _ in model.calls] == ["close"]
