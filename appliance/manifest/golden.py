"""Golden cases: real images whose result is known, judged on this machine before a model may serve on it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from appliance.manifest.base import ManifestModel
from appliance.manifest.readout import Quantity
from appliance.manifest.weights import Sha256

ImageFormat = Literal["dicom", "nifti", "invesalius"]


class ImageFromPypi(ManifestModel):
    """The image is a member of a wheel on the Python package index."""

    kind: Literal["pypi"]
    project: Annotated[str, Field(description="Distribution name, e.g. pydicom-data")]
    version: Annotated[str, Field(description="Exact version")]
    member: Annotated[str, Field(description="Path of the image inside the wheel")]


class ImageFromDebian(ManifestModel):
    """The image is a member of a Debian or Ubuntu package, of whatever version apt knows."""

    kind: Literal["debian"]
    package: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$", description="Package name, e.g. mricron-data")]
    member: Annotated[str, Field(description="Path of the image inside the package")]


class ImageInPackage(ManifestModel):
    """The image lies in the package folder, in golden/."""

    kind: Literal["package"]
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", description="File name")]


class GoldenImage(ManifestModel):
    """One file that holds the image; it is known by its SHA-256, wherever it comes from."""

    sha256: Annotated[Sha256, Field(description="SHA-256 of the image file")]
    format: Annotated[
        ImageFormat,
        Field(
            description="dicom: one file, a radiograph or multi-frame; nifti: a volume, .nii or .nii.gz; invesalius: a "
            "project of axial slices, .inv3"
        ),
    ]
    modality: Annotated[str, Field(pattern=r"^[A-Z]{2,16}$", description="Modality (0008,0060) that it stands for")]
    source: Annotated[
        ImageFromPypi | ImageFromDebian | ImageInPackage,
        Field(discriminator="kind", description="Where it comes from"),
    ]


class Expectation(ManifestModel):
    """One number that the model must find in a golden image."""

    structure: Annotated[str, Field(description="Label of the structure")]
    quantity: Annotated[Quantity, Field(description="Which of its measurements")]
    value: Annotated[float, Field(description="What ONNX Runtime found in float32 when the package was made")]
    tolerance: Annotated[float, Field(gt=0, le=1, description="Allowed deviation, as a fraction of value")] = 0.01


class GoldenCase(ManifestModel):
    """A real image and what the model must find in it, on every backend and in every precision."""

    name: Annotated[str, Field(min_length=1, max_length=64, description="Name in tables, e.g. Colin 27")]
    image: Annotated[GoldenImage, Field(description="The image")]
    expect: Annotated[list[Expectation], Field(min_length=1, description="What must be found")]


class Parity(ManifestModel):
    """How far a backend or a reduced precision may be from ONNX Runtime in float32, on each golden case."""

    min_dice: Annotated[float, Field(gt=0, le=1, description="Least Dice coefficient of each structure's mask")] = 0.99
    max_size_difference: Annotated[
        float, Field(ge=0, le=1, description="Largest difference of each structure's size, as a fraction")
    ] = 0.01
    max_output_difference: Annotated[
        float | None,
        Field(ge=0, description="Largest absolute difference of any element of the last network's output"),
    ] = None


def check_expectations(cases: list[GoldenCase], measured: dict[str, set[Quantity]]) -> None:
    """Raise ``ValueError`` when a case expects what the readout does not measure, or two have one name.

    Parameters
    ----------
    measured
        Label of each structure → its quantities.
    """
    names = [case.name for case in cases]
    if len(set(names)) != len(names):
        raise ValueError("two golden cases have the same name")
    for case in cases:
        for expectation in case.expect:
            if expectation.quantity not in measured.get(expectation.structure, set()):
                raise ValueError(
                    f"golden case {case.name!r} expects {expectation.quantity} of {expectation.structure!r}, "
                    "which the readout does not measure"
                )
