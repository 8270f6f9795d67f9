"""What is fuzzed: one class per target, each with its seeds, and a judgement of what came of a case."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

from tests.fuzz.mutation import Step, mutate

CORPUS: Final = Path(__file__).parent / "corpus"


class Target(ABC):
    """Something that takes bytes from outside; used in a process of its own, on its main thread.

    Parameters
    ----------
    folder
        An empty folder for whatever it keeps.

    Attributes
    ----------
    name
        Its name on the command line, and of its folder in the corpus.
    hang_s
        A case that takes longer counts as hanging.
    memory_mib
        More than this above the memory at start counts as a crash.
    steps
        Changes that know the structure of its input.
    """

    name: ClassVar[str]
    hang_s: ClassVar[float] = 10.0
    memory_mib: ClassVar[int] = 256
    steps: ClassVar[Sequence[Step]] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def run(self, case: bytes) -> None:
        """Feed it a case; whatever is raised is a defect."""

    @abstractmethod
    def check(self) -> None:
        """Raise when it no longer does its work, or keeps something of the cases; called now and then, and last."""

    def stop(self) -> None:  # noqa: B027 - most hold nothing
        """Give back what it holds."""

    @classmethod
    def corpus(cls) -> list[bytes]:
        """The kept inputs, in the order of their names."""
        return [path.read_bytes() for path in sorted((CORPUS / cls.name).iterdir())]

    @classmethod
    def case(cls, seed: int, number: int, corpus: Sequence[bytes]) -> bytes:
        """The case of this number: the corpus itself first, then what is made of it."""
        if number < len(corpus):
            return corpus[number]
        return mutate(random.Random(f"{cls.name} {seed} {number}"), corpus, cls.steps)
