"""Derived networks are made once, for what they are made of."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import pytest

from appliance.errors import ModelPackageError
from appliance.graphs.graph_cache import GraphCache
from tests.unit.graphs.graphs import image, unet


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(unet(), path)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_made_once_then_found(source: Path, tmp_path: Path) -> None:
    cache = GraphCache(tmp_path / "graphs")
    first = cache.reduced(source, sha256(source), "float16")
    again = GraphCache(tmp_path / "graphs").reduced(source, sha256(source), "float16")
    assert (first.built, again.built) == (True, False)
    assert again.info["sha256"] == sha256(again.path)
    assert again.info["made_of"] == sha256(source)


def test_each_way_of_making_is_another_network(source: Path, tmp_path: Path) -> None:
    cache = GraphCache(tmp_path / "graphs")
    known = sha256(source)
    paths = {
        cache.reduced(source, known, "float16").path,
        cache.reduced(source, known, "bfloat16").path,
        cache.reduced(source, known, "float16", emulate=True).path,
        cache.reduced(source, "0" * 64, "float16").path,
        cache.quantized(source, known, place="m/1/s", calibration="a", images=1, tensors=[image()]).path,
        cache.quantized(source, known, place="m/1/s", calibration="b", images=1, tensors=[image()]).path,
        cache.quantized(source, known, place="m/1/t", calibration="b", images=1, tensors=[image()]).path,
    }
    assert len(paths) == 7


def test_the_newest_calibration_is_found(source: Path, tmp_path: Path) -> None:
    cache = GraphCache(tmp_path / "graphs")
    known = sha256(source)
    assert cache.calibrated(known, "m/1/s") is None
    cache.reduced(source, known, "float16")
    cache.quantized(source, "0" * 64, place="m/1/s", calibration="other network", images=1, tensors=[image()])
    assert cache.calibrated(known, "m/1/s") is None
    first = cache.quantized(source, known, place="m/1/s", calibration="a", images=1, tensors=[image()])
    second = cache.quantized(source, known, place="m/1/s", calibration="b", images=2, tensors=[image(), image(seed=2)])
    found = cache.calibrated(known, "m/1/s")
    assert found is not None and found.path == second.path != first.path
    assert found.info["images"] == 2


def test_a_damaged_one_is_named_and_made_anew(source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = GraphCache(tmp_path / "graphs")
    path = cache.reduced(source, sha256(source), "float16").path
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    again = cache.reduced(source, sha256(source), "float16")
    assert again.built and again.path.read_bytes() == whole
    assert "is damaged" in caplog.text


def test_a_damaged_calibration_is_not_found(source: Path, tmp_path: Path) -> None:
    """The images are not here any more: it cannot be made anew."""
    cache = GraphCache(tmp_path / "graphs")
    path = cache.quantized(source, sha256(source), place="m/1/s", calibration="a", images=1, tensors=[image()]).path
    path.write_bytes(b"")
    assert cache.calibrated(sha256(source), "m/1/s") is None


@pytest.mark.parametrize("content", [b"", b"\x13\x37" * 500], ids=["empty", "noise"])
def test_what_is_no_network_is_refused_and_leaves_nothing(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelPackageError, match=r"model\.onnx is no"):
        GraphCache(tmp_path / "graphs").reduced(path, "0" * 64, "float16")
    assert [entry for entry in (tmp_path / "graphs").iterdir() if entry.is_dir()] == []
