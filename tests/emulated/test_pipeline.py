"""A thousand studies, from the file to the result objects: the device holds what it held before them."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import psutil
import pytest

from appliance.backends.table import BACKENDS
from appliance.domain.states import Scope
from appliance.modelrepo.repository import ModelRepository
from appliance.pipeline.encoding import encode
from appliance.pipeline.model import Model
from tests.support.cuda.device import EmulatedDevice
from tests.support.model_packages import cone_study, write_bright_package

STUDIES = 1000
WRITTEN_EVERY = 20
"""Result objects are written for each of so many: they take thirty times as long as all before, and no GPU."""


def test_a_thousand_studies_leave_nothing_on_the_device(
    backend: str,
    device: EmulatedDevice,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setitem(BACKENDS, "tensorrt", "tests.support.cuda.backend:EmulatedTensorRtProper")
    write_bright_package(tmp_path / "engines", "1.0.0", 0.5, backends=["tensorrt"])
    package = ModelRepository(tmp_path / "engines", tmp_path / "weights").find("bright")
    model = Model(package, threads=1, cache=tmp_path / "cache")
    request.addfinalizer(model.close)
    assert model.open() == "tensorrt"
    process, memory = psutil.Process(), []
    before = device.counts
    images = [cone_study(tmp_path / f"study{size}", f"{size}", size / 10) for size in range(5, 11)]
    areas = set()
    for number in range(STUDIES):
        loaded = model.load(images[number % len(images)])
        result = model.judge(loaded.image, {})
        areas.add((number % len(images), result.findings[0].measurements[0].value))
        if number % WRITTEN_EVERY == 0:
            (tmp_path / "results").mkdir()
            encoded = encode(
                result, loaded.datasets, tmp_path / "results", model_key="bright/1.0.0", scope=Scope.INSTANCE,
                shadow=False, revision=1, created_at=time.time(), device_serial="1", predecessor=None, path_of=str,
            )  # fmt: skip
            assert len(encoded.rows) == 3
            shutil.rmtree(tmp_path / "results")
            memory.append(process.memory_info().rss)
    after = device.counts
    for what in ("allocations", "frees", "pinned_allocations", "bytes", "peak", "streams", "graphs", "contexts"):
        assert after[what] == before[what]
    assert after["copies"] - before["copies"] == 2 * STUDIES
    assert len(areas) == len(images)  # each image has its own area, and always the same
    assert memory[-1] - memory[len(memory) // 2] < 8 * 2**20
