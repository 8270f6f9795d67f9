"""What all manifest classes share: they are closed and frozen."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from appliance.domain.codes import Code


class ManifestModel(BaseModel):
    """Base of the manifest's parts: an unknown key is an error, a value never changes after reading, no number is
    infinite or none: a bound that is no number would let everything pass.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CodeSpec(ManifestModel):
    """One coded concept (PS3.16)."""

    value: Annotated[str, Field(min_length=1, max_length=16, description="Code Value (0008,0100)")]
    scheme: Annotated[str, Field(min_length=1, max_length=16, description="Coding Scheme Designator (0008,0102)")]
    meaning: Annotated[str, Field(min_length=1, max_length=64, description="Code Meaning (0008,0104)")]

    def code(self) -> Code:
        """The same concept as the domain's type."""
        return Code(self.value, self.scheme, self.meaning)
