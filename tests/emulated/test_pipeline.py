"""Studies from the file to the result objects, on the device: what it holds, and which engine made the numbers."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import psutil
import pytest

from appliance.backends.table import BACKENDS
from appliance.domain.states import Scope
from appliance.modelrepo.package import ModelPackage
from appliance.modelrepo.repository import ModelRepository
from appliance.pipeline.encoding import encode
from appliance.pipeline.model import Model
from appliance.pipeline.verifier import Verifier
from tests.support.cuda.device import EmulatedDevice
from tests.support.model_packages import cone_study, write_bright_package

STUDIES = 1000
WRITTEN_EVERY = 20
"""Result objects are written for each of so many: they take thirty times as long as all before, and no GPU."""


def package_in(root: Path) -> ModelPackage:
    """A model that runs on the GPU and nowhere else."""
    write_bright_package(root / "engines", "1.0.0", 0.5, backends=["tensorrt"])
    return ModelRepository(root / "engines", root / "weights").find("bright")


def test_a_thousand_studies_leave_nothing_on_the_device(
    device: EmulatedDevice,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setitem(BACKENDS, "tensorrt", "tests.support.cuda.backend:EmulatedTensorRtProper")
    model = Model(package_in(tmp_path), threads=1, cache=tmp_path / "cache")
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


def test_each_engine_is_verified_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine that serves is the one that was checked: two builds of a network may compute differently."""
    monkeypatch.setitem(BACKENDS, "tensorrt", "tests.support.cuda.backend:EmulatedTensorRt")
    package, cache, lines = package_in(tmp_path), tmp_path / "cache", []
    verifier = Verifier(tmp_path / "verified", threads=1, cache=cache, progress=lines.append)
    variants = []

    def open_and_close() -> None:
        model = Model(package, threads=1, cache=cache)
        model.open(verifier.require)
        variants.append(model.variant)
        assert model.verification is not None and model.verification.passed
        image = model.load(cone_study(tmp_path / f"study{len(variants)}", "a patient")).image
        parameters = dict(model.judge(image, {}).algorithm.parameters)
        model.close()
        assert parameters["engines"] == variants[-1]

    for _ in range(2):
        open_and_close()
    assert len(lines) == 2  # the model and the reference, once
    shutil.rmtree(cache / "engines")
    open_and_close()
    assert len(lines) == 4
    assert variants[0] == variants[1] != variants[2]
    assert len(verifier.known(package)) == 2
