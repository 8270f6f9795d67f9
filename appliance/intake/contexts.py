"""What the node says yes to in association negotiation (PS3.8 section 7.1.1): SOP classes and transfer syntaxes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pydicom import uid
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # the library makes it at run time

from appliance.intake.file_meta import TRANSFER_SYNTAXES

STORAGE_SOP_CLASSES: Final[tuple[str, ...]] = (
    uid.ComputedRadiographyImageStorage,
    uid.DigitalXRayImageStorageForPresentation,
    uid.DigitalXRayImageStorageForProcessing,
    uid.DigitalMammographyXRayImageStorageForPresentation,
    uid.DigitalMammographyXRayImageStorageForProcessing,
    uid.BreastTomosynthesisImageStorage,
    uid.CTImageStorage,
    uid.EnhancedCTImageStorage,
    uid.LegacyConvertedEnhancedCTImageStorage,
    uid.MRImageStorage,
    uid.EnhancedMRImageStorage,
    uid.EnhancedMRColorImageStorage,
    uid.LegacyConvertedEnhancedMRImageStorage,
    uid.PositronEmissionTomographyImageStorage,
    uid.EnhancedPETImageStorage,
    uid.LegacyConvertedEnhancedPETImageStorage,
    uid.NuclearMedicineImageStorage,
    uid.UltrasoundImageStorage,
    uid.UltrasoundMultiFrameImageStorage,
    uid.XRayAngiographicImageStorage,
    uid.EnhancedXAImageStorage,
    uid.XRayRadiofluoroscopicImageStorage,
    uid.EnhancedXRFImageStorage,
    uid.SecondaryCaptureImageStorage,
    uid.MultiFrameSingleBitSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
    uid.VLPhotographicImageStorage,
    uid.VLEndoscopicImageStorage,
    uid.VLMicroscopicImageStorage,
    uid.OphthalmicPhotography8BitImageStorage,
    uid.OphthalmicPhotography16BitImageStorage,
    uid.OphthalmicTomographyImageStorage,
    # Results and what people say about images: priors and other products' results come back too.
    uid.SegmentationStorage,
    uid.ParametricMapStorage,
    uid.RTStructureSetStorage,
    uid.BasicTextSRStorage,
    uid.EnhancedSRStorage,
    uid.ComprehensiveSRStorage,
    uid.Comprehensive3DSRStorage,
    uid.MammographyCADSRStorage,
    uid.ChestCADSRStorage,
    uid.XRayRadiationDoseSRStorage,
    uid.KeyObjectSelectionDocumentStorage,
    uid.GrayscaleSoftcopyPresentationStateStorage,
    uid.ColorSoftcopyPresentationStateStorage,
    uid.PseudoColorSoftcopyPresentationStateStorage,
    uid.EncapsulatedPDFStorage,
)
"""Taken in whatever the models want."""


class SupportedContexts:
    """Verification, the classes above, those that models want besides, and those of further services.

    Negotiation in the library costs time for each context that is offered to it, on every association: with all of
    them copied and compared it takes tens of milliseconds. So each association is only given those it asks for.
    """

    def __init__(self, wanted_by_models: Iterable[str], services: Iterable[str] = ()) -> None:
        syntaxes = list(TRANSFER_SYNTAXES)
        self.storage_sop_class_uids = frozenset(map(str, STORAGE_SOP_CLASSES)) | frozenset(wanted_by_models)
        self._contexts = {sop_class: build_context(sop_class, syntaxes) for sop_class in self.storage_sop_class_uids}
        uncompressed = [str(uid.ExplicitVRLittleEndian), str(uid.ImplicitVRLittleEndian)]
        self._contexts |= {sop_class: build_context(sop_class, [*uncompressed]) for sop_class in services}
        self.verification = build_context(Verification, [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian])
        self._contexts[str(Verification)] = self.verification

    def among(self, requested: Iterable[str]) -> list[PresentationContext]:
        """Return the supported contexts for the requested abstract syntaxes; none twice."""
        return [self._contexts[uid] for uid in dict.fromkeys(requested) if uid in self._contexts]
