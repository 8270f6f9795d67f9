"""Series that hold more than one stack: what tells them apart."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.errors import UnsuitableImage
from appliance.imaging.file import ImageFile
from appliance.imaging.slices import Slice

SPLIT = "Send each stack as a series of its own"

_DISTINCTIONS = (
    ("several-time-points", "time points", ("TemporalPositionIndex", "TemporalPositionIdentifier")),
    ("several-echoes", "echo times", ("EffectiveEchoTime", "EchoTime")),
    ("several-diffusion-weightings", "b values", ("DiffusionBValue",)),
    ("several-image-types", "image types", ("ImageType",)),
    ("several-acquisitions", "acquisitions", ("AcquisitionNumber",)),
)
"""Reason, words and attributes of what repeats a position, the most telling first."""


def check_one_series(files: Sequence[ImageFile]) -> None:
    """Refuse files that do not belong together, and localizers: their planes are no stack.

    Raises
    ------
    UnsuitableImage
        ``mixed-series``, ``mixed-modality``, ``mixed-frame-of-reference``, ``localizer``.
    """
    for keyword, reason, what in (
        ("SeriesInstanceUID", "mixed-series", "the images are of different series"),
        ("Modality", "mixed-modality", "the images are of different modalities"),
        ("FrameOfReferenceUID", "mixed-frame-of-reference", "the images are of different frames of reference"),
    ):
        found = {str(file.dataset.get(keyword) or "") for file in files}
        if len(found) > 1:
            raise UnsuitableImage(reason, what, found=f"{len(found)} of them", expected="one", mend=SPLIT)
    localizers = sum("LOCALIZER" in (file.dataset.get("ImageType") or ()) for file in files)
    if localizers:
        raise UnsuitableImage(
            "localizer",
            "the series has localizers (scouts), which are no slices",
            found=f"{localizers} of {len(files)} images",
            mend="Send the series without them",
        )


def repeated_position(slices: Sequence[Slice], repeated: int) -> UnsuitableImage:
    """The error for slices in the same place, which says what the slices differ in where they tell."""
    for reason, words, keywords in _DISTINCTIONS:
        values = {str([slice_.attributes.get(keyword) for keyword in keywords]) for slice_ in slices}
        # A value of its own for every slice, such as an acquisition number that counts, tells no stacks apart.
        if 1 < len(values) <= len(slices) // 2:
            return UnsuitableImage(
                reason,
                "several images lie in the same place",
                found=f"{len(values)} {words} in one series",
                expected="one image for each position",
                mend=SPLIT,
            )
    return UnsuitableImage(
        "duplicate-position",
        "several images lie in the same place",
        found=f"{repeated} of {len(slices)} repeat a position",
        expected="one image for each position",
        mend=SPLIT,
    )
