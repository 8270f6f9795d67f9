"""Cases guided by coverage (atheris, libFuzzer): what reaches new code is changed further."""

from __future__ import annotations

import atexit
import random
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import atheris

from tests.fuzz.mutation import mutate
from tests.fuzz.target import CORPUS, Target

if TYPE_CHECKING:
    from tests.fuzz.process import Runner


def watch_coverage() -> AbstractContextManager[None]:
    """Within it, modules of the appliance are imported so that their coverage is seen."""
    return atheris.instrument_imports(include=["appliance"])


def run_guided(runner: Runner, kind: type[Target], folder: Path, seed: int, first: int, last: int) -> None:
    """Run the cases, and end the process; inputs that reach new code stay in ``found`` of the folder."""
    corpus = kind.corpus()
    found = folder / "found"
    found.mkdir(exist_ok=True)
    number = first

    def one(case: bytes) -> None:
        nonlocal number
        runner.run(number, case)
        number += 1

    def change(case: bytes, longest: int, case_seed: int) -> bytes:
        rng = random.Random(case_seed)
        if rng.random() < 0.3:
            return atheris.Mutate(case, longest)
        return mutate(rng, [case, rng.choice(corpus)], kind.steps)[:longest]

    # The watchman sees to time and memory: libFuzzer would end the process.
    options = [f"-seed={seed + first + 1}", f"-runs={last - first}", "-timeout=0", "-rss_limit_mb=0", "-verbosity=0"]
    folders = [str(found), str(CORPUS / kind.name)]
    atheris.Setup(["fuzz", *options, f"-max_len={64 * 1024}", *folders], one, custom_mutator=change)
    atexit.register(runner.finish)  # libFuzzer ends the process by itself
    atheris.Fuzz()
