"""Where a model's weights come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from appliance.manifest.base import ManifestModel

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class InPackage(ManifestModel):
    """The file lies in the package folder."""

    kind: Literal["package"]


class FromPypi(ManifestModel):
    """The file is made from a member of a wheel on the Python package index."""

    kind: Literal["pypi"]
    project: Annotated[str, Field(description="Distribution name, e.g. deepbet")]
    version: Annotated[str, Field(description="Exact version")]
    wheel_sha256: Annotated[Sha256, Field(description="SHA-256 of the wheel")]
    member: Annotated[str, Field(description="Path of the file inside the wheel")]
    member_sha256: Annotated[Sha256, Field(description="SHA-256 of that file")]
    converter: Annotated[
        Literal["torchscript-unet", "frozen-graph"], Field(description="How it becomes ONNX: see modelrepo/fetch")
    ]
    grid: Annotated[
        tuple[int, int, int], Field(description="Samples per axis of the network's input, fixed at conversion")
    ]


class WebFile(ManifestModel):
    """One file at a public address."""

    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$",
            description="File name; --from DIR is searched for it to the bottom",
        ),
    ]
    url: Annotated[str, Field(pattern=r"^https://[!-~]+$", description="Address")]
    sha256: Annotated[Sha256, Field(description="SHA-256 of the file")]


class FromWeb(ManifestModel):
    """The file is made from files at public addresses."""

    kind: Literal["web"]
    files: Annotated[list[WebFile], Field(min_length=1, description="The files, in the order the converter takes them")]
    converter: Annotated[Literal["keras-layers"], Field(description="How they become ONNX: see modelrepo/fetch")]

    @model_validator(mode="after")
    def _distinct(self) -> FromWeb:
        if len({file.name for file in self.files}) != len(self.files):
            raise ValueError("two files have the same name")
        return self


WeightsSource = Annotated[InPackage | FromPypi | FromWeb, Field(discriminator="kind")]


class WeightsFile(ManifestModel):
    """One ONNX file of the model."""

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+\.onnx$", description="File name")]
    sha256: Annotated[Sha256, Field(description="SHA-256 of the ONNX file")]
    source: Annotated[WeightsSource, Field(description="Where it comes from")]
