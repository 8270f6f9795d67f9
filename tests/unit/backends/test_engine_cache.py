"""The cache holds whole, right engines or none, whatever happens while one is built."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from appliance.backends.base import NetworkSpec
from appliance.backends.engine_builder import BuiltEngine
from appliance.backends.engine_cache import EngineCache
from appliance.backends.tensorrt_api import TensorRtApi
from appliance.spool.derived import Derived
from tests.support.waiting import wait_for
from tests.unit.backends.networks import SPEC

API = TensorRtApi(SimpleNamespace(__version__="1.0"), "tensorrt-rtx")
ENGINE = BuiltEngine(b"plan" * 1000, 1.5, 3, ("8.0",), {"mask": [1, 1, 8, 8]}, {"7.5": "no kernel"}, ("a warning",))


def never() -> BuiltEngine:
    raise AssertionError("it was built again")


def get(cache: EngineCache, onnx: str = "a" * 64, spec: NetworkSpec = SPEC) -> Derived:
    return cache.get(onnx, spec, API, lambda: ENGINE)


def test_built_once_then_found(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, max_bytes=1 << 30)
    first = get(cache)
    again = cache.get("a" * 64, SPEC, API, never)
    assert (first.built, again.built) == (True, False)
    assert again.path.read_bytes() == ENGINE.plan
    assert again.info["left_out"] == {"7.5": "no kernel"}
    assert (again.path.parent / "build.log").read_text() == "a warning\n"


def test_found_without_building(tmp_path: Path) -> None:
    """As a process that serves does."""
    cache = EngineCache(tmp_path, max_bytes=1 << 30)
    assert cache.find("a" * 64, SPEC, API) is None
    built = get(cache)
    found = cache.find("a" * 64, SPEC, API)
    assert found is not None and (found.path, found.built) == (built.path, False)
    found.path.write_bytes(b"damaged")
    assert cache.find("a" * 64, SPEC, API) is None


def test_engines_for_another_gpu_are_others(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, max_bytes=1 << 30)
    here, there = (TensorRtApi(API.module, "tensorrt", device) for device in ("8.9, 128 cores", "9.0, 132 cores"))
    cache.get("a" * 64, SPEC, here, lambda: ENGINE)
    assert cache.find("a" * 64, SPEC, here) is not None
    assert cache.find("a" * 64, SPEC, there) is None


def test_everything_that_an_engine_depends_on_is_in_its_key(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, max_bytes=1 << 30)
    newer = TensorRtApi(SimpleNamespace(__version__="2.0"), "tensorrt-rtx")
    other = TensorRtApi(SimpleNamespace(__version__="1.0"), "tensorrt")
    larger = NetworkSpec(SPEC.name, SPEC.input_tensor, (1, 1, 16, 16), SPEC.output_tensor, SPEC.precision)
    others = [
        larger, replace(SPEC, precision="float16"), replace(SPEC, min_shape=(1, 1, 4, 4)),
        replace(SPEC, typical_shape=(1, 1, 4, 4)),
    ]  # fmt: skip
    entries = [get(cache), get(cache, "b" * 64), *(get(cache, spec=spec) for spec in others)]
    entries += [cache.get("a" * 64, SPEC, api, lambda: ENGINE) for api in (newer, other)]
    assert len({entry.path for entry in entries}) == 8
    assert all(entry.built for entry in entries)


@pytest.mark.parametrize("file", ["engine.plan", "engine.json"])
def test_a_damaged_engine_is_named_and_built_anew(file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = EngineCache(tmp_path, max_bytes=1 << 30)
    damaged = get(cache).path.parent / file
    damaged.write_bytes(damaged.read_bytes()[:-5])
    assert get(cache).built
    assert "is damaged" in caplog.text
    assert not get(cache).built


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, max_bytes=10_000)
    first, second = get(cache, "1" * 64), get(cache, "2" * 64)
    os.utime(first.path.parent, (1, 1))
    os.utime(second.path.parent, (2, 2))
    assert not get(cache, "1" * 64).built  # used now
    third = get(cache, "3" * 64)
    assert not second.path.exists()
    assert first.path.exists() and third.path.exists()


def test_two_at_once_build_once(tmp_path: Path) -> None:
    building, go_on = threading.Event(), threading.Event()
    built: list[bool] = []

    def slow() -> BuiltEngine:
        building.set()
        assert go_on.wait(30)
        return ENGINE

    def first() -> None:
        built.append(EngineCache(tmp_path, max_bytes=1 << 30).get("a" * 64, SPEC, API, slow).built)

    def second() -> None:
        built.append(EngineCache(tmp_path, max_bytes=1 << 30).get("a" * 64, SPEC, API, never).built)

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert building.wait(30)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert sorted(built) == [False, True]


def test_kill_while_building_leaves_nothing_half_done(tmp_path: Path) -> None:
    """Killed after the plan was written and before the entry has its name."""
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from appliance.backends.engine_cache import EngineCache
        from appliance.spool import derived
        from tests.unit.backends.test_engine_cache import API, ENGINE, SPEC
        write = derived.write_durably
        def slow(path, content):
            write(path, content)
            if path.name == "engine.plan":
                print("written", flush=True)
                time.sleep(60)
        derived.write_durably = slow
        EngineCache(Path(sys.argv[1]), max_bytes=1 << 30).get("a" * 64, SPEC, API, lambda: ENGINE)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: process.poll() is not None, what="the builder to be gone")
    cache = EngineCache(tmp_path, max_bytes=1 << 30)
    assert get(cache).built
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [get(cache).path.parent.name]
