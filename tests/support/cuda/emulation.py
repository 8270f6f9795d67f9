"""Builds the emulated driver, and runs Python on it in processes of their own.

pycuda is linked against ``libcuda.so.1``, so the driver is chosen when a process starts: by ``LD_LIBRARY_PATH``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
_SOURCE = Path(__file__).with_name("driver.c")
_FLAGS = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread")
_SONAME = "libcuda.so.1"
_SITE = Path(__file__).with_name("site")

INSIDE = "EMULATED_CUDA"
"""In the environment of every process that runs on the emulated driver."""


def emulated_driver() -> Path:
    """Return the folder that holds the driver; skip the test where it cannot be built.

    It is kept in ``.cache/cuda``, by the content of everything that it is made from.
    """
    extension = _pycuda_extension()
    compiler = shutil.which("cc") or shutil.which("g++")
    if extension is None or compiler is None or shutil.which("nm") is None:
        pytest.skip("no pycuda, C compiler or nm on this machine: scripts/build-pycuda says what is missing")
    content = hashlib.sha256(_SOURCE.read_bytes() + extension.read_bytes()).hexdigest()[:16]
    folder = REPOSITORY / ".cache" / "cuda" / content
    if not (folder / _SONAME).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            _build(Path(scratch), compiler, extension).rename(folder / _SONAME)
    return folder


def _pycuda_extension() -> Path | None:
    # Imported, it would need the driver at once.
    spec = importlib.util.find_spec("pycuda")
    places = spec.submodule_search_locations if spec is not None else None
    return next((found for place in places or () for found in Path(place).glob("_driver*.so")), None)


def _build(scratch: Path, compiler: str, extension: Path) -> Path:
    """Compile what is emulated, then again with a stub for every other name that pycuda is linked against."""
    library = scratch / _SONAME
    language = ("-x", "c") if compiler.endswith("g++") else ()
    command = [compiler, *_FLAGS, f"-Wl,-soname,{_SONAME}", "-o", str(library), *language, str(_SOURCE)]
    subprocess.run(command, check=True)
    emulated = _names(library, "--defined-only")
    wanted = {name for name in _names(extension, "--undefined-only") if name.startswith("cu")}
    stubs = scratch / "stubs.c"
    # CUDA_ERROR_NOT_SUPPORTED: whoever comes to need one of them is told so.
    stubs.write_text("".join(f"int {name}(void) {{ return 801; }}\n" for name in sorted(wanted - emulated)))
    subprocess.run([*command, str(stubs)], check=True)
    return library


def _names(library: Path, which: str) -> set[str]:
    listing = subprocess.run(["nm", "-D", which, str(library)], check=True, capture_output=True, text=True).stdout
    return {line.split()[-1].split("@")[0] for line in listing.splitlines()}


def emulation(
    *,
    memory: int | None = None,
    capability: str | None = None,
    lost: Path | None = None,
    report: Path | None = None,
    backend: str | None = None,
) -> dict[str, str]:
    """The environment of a process that shall run on the emulated driver.

    Parameters
    ----------
    memory
        Bytes that the device has.
    capability
        Its compute capability, such as ``8.9``.
    lost
        As soon as this file exists, the process that notices removes it and has lost its device for good.
    report
        Gets a line of JSON from each process when it ends by itself: see ``read_report``.
    backend
        Which class of ``support/cuda/backend.py`` is the backend ``tensorrt``; the appliance's own without it.
    """
    given = {
        "EMULATED_CUDA_MEMORY": memory,
        "EMULATED_CUDA_CAPABILITY": None if capability is None else capability.replace(".", ""),
        "EMULATED_CUDA_LOST": lost,
        "EMULATED_CUDA_REPORT": report,
    }
    return {
        **(os.environ | {"PYTHONPATH": str(REPOSITORY)} if backend is None else with_backend(backend)),
        INSIDE: "1",
        "LD_LIBRARY_PATH": f"{emulated_driver()}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":"),
        **{name: str(value) for name, value in given.items() if value is not None},
    }


def with_backend(backend: str) -> dict[str, str]:
    """The environment of a process in which ``tensorrt`` is a class of ``support/cuda/backend.py``, on any driver."""
    return {**os.environ, "TEST_TENSORRT_BACKEND": backend, "PYTHONPATH": f"{REPOSITORY}:{_SITE}"}


def run_emulated(arguments: Sequence[str], **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments on the emulated driver; ``settings`` are those of ``emulation``."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=emulation(**settings),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def read_report(path: Path) -> list[dict[str, int]]:
    """What each process left behind on its device; the lines of ``report`` of ``emulation``."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
