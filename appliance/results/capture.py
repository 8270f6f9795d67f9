"""Secondary captures: the picture of a result for every viewer, however simple (PS3.3 section A.8.1)."""

from __future__ import annotations

from typing import Final

from pydicom.dataset import Dataset

from appliance.domain.codes import Code
from appliance.domain.image import SourceFrame
from appliance.domain.result import InferenceResult
from appliance.results.coded import concept
from appliance.results.context import ResultContext
from appliance.results.identity import carry_lossy_compression, carry_request, write_header
from appliance.results.overlay import best_view, render_overlay
from appliance.results.references import reference
from appliance.results.sources import SourceImages
from appliance.results.text import AI_STATEMENT, plain

SECONDARY_CAPTURE_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.7"

_PURPOSE: Final = Code("121322", "DCM", "Source image for image processing operation")


def write_captures(result: InferenceResult, sources: SourceImages, context: ResultContext) -> list[Dataset]:
    """Write the overlay of ``result`` as true colour Secondary Capture images: one, of its best view.

    Returns
    -------
    list[Dataset]
        With file meta information, Explicit VR Little Endian, RGB, colour by pixel.

    Raises
    ------
    ResultError
        The sources are not those of the image.
    """
    sources.check_against(result.image)
    view = best_view(result, sources)
    pixels = render_overlay(result, sources, context, view)
    capture = Dataset()
    write_header(capture, SECONDARY_CAPTURE_STORAGE, result, sources, context, "sc")
    carry_request(capture, sources)

    capture.Laterality = None

    # SC Equipment (C.8.6.1), General Image (C.7.6.1), General Reference (C.12.4)
    capture.ConversionType = "WSD"
    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.PatientOrientation = [view.letters.right, view.letters.bottom] if view.letters.right else None
    capture.BurnedInAnnotation = "YES"
    capture.LossyImageCompression = "00"
    carry_lossy_compression(capture, sources)
    capture.ImageComments = plain(f"{AI_STATEMENT}. {result.intended_use}", 10240)
    capture.DerivationDescription = plain(f"Overlay of {result.algorithm.name} {result.algorithm.version}", 1024)
    capture.SourceImageSequence = [_source(view.frame)]

    # Image Pixel (C.7.6.3)
    capture.SamplesPerPixel = 3
    capture.PhotometricInterpretation = "RGB"
    capture.PlanarConfiguration = 0
    capture.Rows, capture.Columns = pixels.shape[:2]
    capture.BitsAllocated = capture.BitsStored = 8
    capture.HighBit = 7
    capture.PixelRepresentation = 0
    data = pixels.tobytes()
    capture.PixelData = data if len(data) % 2 == 0 else data + b"\0"
    capture["PixelData"].VR = "OB"
    return [capture]


def _source(frame: SourceFrame) -> Dataset:
    item = reference(frame.sop_class_uid, frame.sop_instance_uid)
    if frame.frame_number is not None:
        item.ReferencedFrameNumber = frame.frame_number
    item.PurposeOfReferenceCodeSequence = [concept(_PURPOSE)]
    return item
