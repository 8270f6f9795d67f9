"""What the worker does with an image before a model sees it: header, decoders, order of slices."""

from __future__ import annotations

from pathlib import Path

from appliance.errors import UnsuitableImage
from appliance.imaging.loading import load_image
from appliance.manifest.manifest import InputSpec
from tests.fuzz.logs import PLANTED_ROOT, PLANTED_TEXT
from tests.fuzz.target import Target
from tests.fuzz.targets.dataset import DataSet

_VOLUME = InputSpec(kind="volume", min_slices=1)
_PROJECTION = InputSpec(kind="projection", apply_voi=True)


class Pixels(Target):
    """Loads each case as a volume and as a radiograph."""

    name = "pixels"
    hang_s = 10.0
    memory_mib = 512
    steps = DataSet.steps

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._path = folder / "case"

    def run(self, case: bytes) -> None:
        """Load."""
        self._path.write_bytes(case)
        for spec in (_VOLUME, _PROJECTION):
            try:
                load_image([self._path], spec)
            except UnsuitableImage as refusal:
                assert PLANTED_TEXT not in str(refusal) and PLANTED_ROOT not in str(refusal), str(refusal)
                assert refusal.reason

    def check(self) -> None:
        """A good image is loaded after all of them."""
        self._path.write_bytes(self.corpus()[0])
        assert load_image([self._path], _PROJECTION).image is not None
