"""What a model found: the single source of every result object (SR, SEG, secondary capture, JSON)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from appliance.domain.codes import Code
from appliance.domain.image import Image


@dataclass(frozen=True, slots=True)
class Algorithm:
    """Who made the result (PS3.16 TID 4019).

    ``parameters`` are pairs of name and value that the SR shows: weights hash, backend, precision.
    """

    name: str
    version: str
    family: Code
    manufacturer: str
    parameters: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number with its meaning and its UCUM unit; ``digits`` is how many decimals are honest to show."""

    concept: Code
    value: float
    unit: Code
    digits: int = 1
    derivation: Code | None = None

    def shown(self) -> str:
        """The value as people read it, for example ``1469.2 ml``."""
        # UCUM annotates what is counted in braces: "{pixels}" reads "pixels", and a ratio has no unit to show.
        unit = self.unit.value.strip("{}") if self.unit.value not in ("1", "{ratio}") else ""
        return f"{self.value:.{self.digits}f} {unit}".rstrip()


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """One segmented structure.

    Attributes
    ----------
    mask
        bool, on the grid of the source image: ``[slice, row, column]``, or ``[row, column]`` for a radiograph.
    category, structure
        Segmented property category and type (PS3.16 CID 7150, CID 7151).
    laterality
        Modifier of the structure (PS3.16 CID 244), or ``None``.
    color
        sRGB, 0 to 255 each, for overlays and as Recommended Display CIELab Value.
    description
        How it was made, in words, where that is not the network's doing; else empty.
    """

    label: str
    mask: NDArray[np.bool_]
    category: Code
    structure: Code
    laterality: Code | None
    color: tuple[int, int, int]
    description: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """One measured structure or observation: a measurement group of the SR (PS3.16 TID 1411).

    ``tracking_id`` is the human-readable name that stays the same when the study is run again; ``segment`` is the
    index (base 0) into ``InferenceResult.segments``, or ``None`` when nothing was outlined.
    """

    tracking_id: str
    finding: Code
    site: Code | None
    laterality: Code | None
    measurements: tuple[Measurement, ...]
    segment: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class InferenceResult:
    """Everything a model has to say about one image or series.

    Attributes
    ----------
    image
        The image that was judged, on whose grid the masks of ``segments`` lie.
    overall
        Measurements that belong to no single structure, such as a right/left ratio.
    notes
        Plain sentences for the reader: assumptions made, what could not be judged.
    intended_use
        The statement of the manifest that every object repeats.
    """

    algorithm: Algorithm
    image: Image
    findings: tuple[Finding, ...]
    segments: tuple[Segment, ...]
    intended_use: str
    title: str
    overall: tuple[Measurement, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        shape = self.image.grid.shape if hasattr(self.image, "grid") else self.image.pixels.shape
        for segment in self.segments:
            if segment.mask.shape != shape or segment.mask.dtype != np.bool_:
                raise ValueError(f"mask of {segment.label!r} must be bool {shape}, is {segment.mask.shape}")
        for finding in self.findings:
            if finding.segment is not None and not 0 <= finding.segment < len(self.segments):
                raise ValueError(f"finding {finding.tracking_id!r} names segment {finding.segment}, there is none")
