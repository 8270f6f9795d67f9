"""What can go wrong while engines are built: each a clear error, and nothing broken afterwards."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import psutil
import pytest
import yaml

from tests.support.studies import REPOSITORY
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.slow]


@pytest.fixture(autouse=True)
def tensorrt_rtx() -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")


def command(state: Path, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "appliance", "models", "convert", "cxr-lung", "--state-dir", str(state),
            *map(str, arguments)]  # fmt: skip


def convert(state: Path, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(state, *arguments),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **options,  # type: ignore[call-overload,no-any-return]
    )


def entries(state: Path) -> list[str]:
    """What lies in the cache of engines, locks left out."""
    return sorted(path.name for path in (state / "cache" / "engines").iterdir() if path.suffix != ".lock")


def packages(folder: Path) -> tuple[Path, Path]:
    """A copy of the package, and settings that name its folder; return its network and the settings."""
    shutil.copytree(REPOSITORY / "engines" / "cxr-lung", folder / "engines" / "cxr-lung")
    settings = folder / "appliance.yaml"
    settings.write_text(yaml.safe_dump({"models": {"folder": str(folder / "engines")}}))
    return folder / "engines" / "cxr-lung" / "1.0.0" / "model.onnx", settings


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 3 MB; the engine has 7."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"only root can make a small disk: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    """Named with the folder; nothing is left in the way, and with more room the engine is there."""
    done = convert(small_disk)
    assert done.returncode == 74
    assert done.stderr.splitlines()[-1] == (
        f"appliance: {small_disk}/cache/engines: No space left on device. Check its owner, and the disk"
    )
    assert "Traceback" not in done.stderr
    assert entries(small_disk) == []
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert convert(small_disk).returncode == 0
    assert len(entries(small_disk)) == 1


def test_a_disk_that_fills_up_before_the_engine_is_whole(tmp_path: Path) -> None:
    """Every user can have this one: no file may become larger than 2 MB."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20))

    done = convert(tmp_path, preexec_fn=limit)
    assert done.returncode == 74
    assert f"appliance: {tmp_path}/cache/engines: File too large" in done.stderr
    assert entries(tmp_path) == []
    assert convert(tmp_path).returncode == 0


def test_killed_while_building(tmp_path: Path) -> None:
    """The builder dies with the command, and the next one builds as if nothing had been."""
    process = subprocess.Popen(command(tmp_path), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    with process:
        for line in process.stderr:
            if "building engine from subgraph" in line:
                break
        builders = psutil.Process(process.pid).children(recursive=True)
        assert builders
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: not any(_lives(builder) for builder in builders), what="the builder to be gone")
    assert entries(tmp_path) == []
    done = convert(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cached" not in done.stdout
    assert len(entries(tmp_path)) == 1


def _lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_two_commands_at_once(tmp_path: Path) -> None:
    """One builds, the other waits and finds the engine."""
    processes = [subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    tables = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted("cached" in table for table in tables) == [False, True]
    assert len(entries(tmp_path)) == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [("truncated", "is not the file that its manifest names"), ("gone", "is not whole: found no model.onnx")],
)
def test_a_damaged_network_is_never_built(damage: str, message: str, tmp_path: Path) -> None:
    network, settings = packages(tmp_path)
    if damage == "gone":
        network.unlink()
    else:
        network.write_bytes(network.read_bytes()[:-1000])
    done = convert(tmp_path / "state", "-c", settings)
    assert done.returncode == 65
    assert message in done.stderr
    assert entries(tmp_path / "state") == []


def test_a_network_whose_weights_were_left_behind(tmp_path: Path) -> None:
    """The manifest names the file that refers to them, and its SHA-256 is right."""
    network, settings = packages(tmp_path)
    onnx.save(onnx.load(network), network, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    network.with_name("model.onnx.data").unlink()
    manifest = network.with_name("manifest.yaml")
    content = yaml.safe_load(manifest.read_text())
    content["weights"][0]["sha256"] = subprocess.run(
        ["sha256sum", str(network)], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    manifest.write_text(yaml.safe_dump(content))
    done = convert(tmp_path / "state", "-c", settings)
    assert done.returncode == 65
    assert "model.onnx is not whole: found no model.onnx.data" in done.stderr
    assert entries(tmp_path / "state") == []


def test_an_engine_with_a_flipped_bit_is_built_anew(tmp_path: Path) -> None:
    assert convert(tmp_path).returncode == 0
    (entry,) = entries(tmp_path)
    plan = tmp_path / "cache" / "engines" / entry / "engine.plan"
    content = bytearray(plan.read_bytes())
    content[len(content) // 2] ^= 1
    plan.write_bytes(content)
    done = convert(tmp_path)
    assert done.returncode == 0
    assert "is damaged (its SHA-256 is another) and is built anew" in done.stderr
    assert "cached" not in done.stdout
