"""The structured report of a result: a Comprehensive 3D SR after TID 1500 "Measurement Report" (PS3.16).

Content tree, in the order of the template::

    Imaging Measurement Report (126000, DCM)
      Language, Observer (device), Procedure reported
      Image Library            TID 1600: what all images have in common once, then a reference to each
      Imaging Measurements     one Measurement Group for each finding, one for the overall measurements
      Qualitative Evaluations  Comments: the statement that this is an AI result, the intended use, the notes

Completion Flag COMPLETE (the algorithm has said all it has to say), Verification Flag UNVERIFIED (no person has
attested it), Preliminary Flag PRELIMINARY (it is not the final report of the study): PS3.3 section C.17.2.
"""

from __future__ import annotations

import math
from typing import Any, Final

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ContainerContentItem,
    ContentSequence,
    FindingSite,
    LanguageOfContentItemAndDescendants,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    ReferencedSegment,
    ReferencedSegmentationFrame,
    SourceImageForMeasurementGroup,
    SourceImageForSegmentation,
    SourceSeriesForSegmentation,
    TextContentItem,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from highdicom.sr import Measurement as NumberItem
from pydicom.dataset import Dataset

from appliance.domain.codes import Code
from appliance.domain.image import ImageVolume
from appliance.domain.result import Finding, InferenceResult, Measurement
from appliance.errors import ResultError
from appliance.results.coded import concept
from appliance.results.context import ResultContext
from appliance.results.draft import as_text, draft_of, words_of
from appliance.results.identity import referenced_requests, tracking_uid, write_header
from appliance.results.image_library import image_library
from appliance.results.observer import observation_context
from appliance.results.references import reference, study_references
from appliance.results.segmentation import SEGMENTATION_STORAGE, occupied_slices
from appliance.results.sources import SourceImages, text
from appliance.results.text import AI_STATEMENT, plain

COMPREHENSIVE_3D_SR_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.88.34"
OVERALL_TRACKING_ID: Final = "overall"

_DECIMAL_STRING_LENGTH: Final = 16
_LANGUAGE: Final = Code("en", "RFC5646", "English")
_COMMENT: Final = Code("121106", "DCM", "Comment")
_QUALITATIVE_EVALUATIONS: Final = Code("C0034375", "UMLS", "Qualitative Evaluations")
_PROCEDURES: Final = {
    # PS3.16 CID 100
    "CT": Code("25045-6", "LN", "CT unspecified body region"),
    "MR": Code("25056-3", "LN", "MRI unspecified body region"),
    "CR": Code("43468-8", "LN", "XR unspecified body region"),
    "DX": Code("43468-8", "LN", "XR unspecified body region"),
}
_ANY_PROCEDURE: Final = Code("363679005", "SCT", "Imaging procedure")


_Group = (
    MeasurementsAndQualitativeEvaluations
    | PlanarROIMeasurementsAndQualitativeEvaluations
    | VolumetricROIMeasurementsAndQualitativeEvaluations
)


def write_report(
    result: InferenceResult, sources: SourceImages, context: ResultContext, segmentation: Dataset | None
) -> Dataset:
    """Write ``result`` as a structured report.

    Parameters
    ----------
    segmentation
        The object that ``write_segmentation`` made of the same result, to which the findings refer; ``None`` when
        there is none, then they refer to the source images.

    Returns
    -------
    Dataset
        With file meta information, Explicit VR Little Endian.

    Raises
    ------
    ResultError
        A measurement is not a finite number, or the sources are not those of the image.
    """
    sources.check_against(result.image)
    algorithm = _algorithm(result)
    groups: list[_Group] = [
        _finding_group(finding, algorithm, result, sources, context, segmentation) for finding in result.findings
    ]
    if result.overall or not groups:
        groups.append(_overall_group(algorithm, result, sources, context))
    content = MeasurementReport(
        observation_context=observation_context(context),
        procedure_reported=_procedures(sources, result.image.modality),
        imaging_measurements=groups,
        language_of_content_item_and_descendants=LanguageOfContentItemAndDescendants(concept(_LANGUAGE)),
    )
    # The document around the tree is set here: highdicom's constructor copies the whole tree and searches it for
    # evidence, and its image library repeats some 20 items for each image. For a long series that takes seconds.
    report = Dataset()
    for element in content[0]:
        report.add(element)
    *before, measurements = report.ContentSequence
    report.ContentSequence = [
        *before,
        image_library(result.image, sources),
        measurements,
        _qualitative_evaluations(result, sources, context),
    ]
    report.CompletionFlag = "COMPLETE"
    report.VerificationFlag = "UNVERIFIED"
    report.PreliminaryFlag = "PRELIMINARY"
    report.PerformedProcedureCodeSequence = []
    report.ReferencedPerformedProcedureStepSequence = []
    report.CurrentRequestedProcedureEvidenceSequence = [_evidence(sources, segmentation)]
    write_header(report, COMPREHENSIVE_3D_SR_STORAGE, result, sources, context, "sr")
    requests = referenced_requests(sources)
    if requests:
        report.ReferencedRequestSequence = requests
    if context.predecessors:
        report.PredecessorDocumentsSequence = [_predecessors(sources, context)]
    return report


def _finding_group(
    finding: Finding,
    algorithm: AlgorithmIdentification,
    result: InferenceResult,
    sources: SourceImages,
    context: ResultContext,
    segmentation: Dataset | None,
) -> _Group:
    """TID 1411 for a segment of a volume, TID 1410 for one of a radiograph, TID 1501 without a segment."""
    sites = None
    if finding.site is not None:
        laterality = concept(finding.laterality) if finding.laterality is not None else None
        sites = [FindingSite(anatomic_location=concept(finding.site), laterality=laterality)]
    common: dict[str, Any] = {
        "tracking_identifier": TrackingIdentifier(
            uid=tracking_uid(sources, context, finding.tracking_id), identifier=plain(finding.tracking_id, 64)
        ),
        "finding_type": concept(finding.finding),
        "finding_sites": sites,
        "algorithm_id": algorithm,
        "measurements": [_number(measurement) for measurement in finding.measurements],
    }
    if finding.segment is None or segmentation is None:
        return MeasurementsAndQualitativeEvaluations(**common, source_images=_measured_images(finding, result))
    if isinstance(result.image, ImageVolume):
        segment = ReferencedSegment(
            sop_class_uid=SEGMENTATION_STORAGE,
            sop_instance_uid=str(segmentation.SOPInstanceUID),
            segment_number=finding.segment + 1,
            source_series=SourceSeriesForSegmentation(sources.series_instance_uid),
        )
        return VolumetricROIMeasurementsAndQualitativeEvaluations(**common, referenced_segment=segment)
    frame = ReferencedSegmentationFrame(
        sop_class_uid=SEGMENTATION_STORAGE,
        sop_instance_uid=str(segmentation.SOPInstanceUID),
        frame_number=finding.segment + 1,
        segment_number=finding.segment + 1,
        source_image=SourceImageForSegmentation(result.image.frame.sop_class_uid, result.image.frame.sop_instance_uid),
    )
    # A frame is of one segment; PS3.3 table C.18.4-1 forbids to name both, highdicom does.
    del frame[0].ReferencedSOPSequence[0].ReferencedSegmentNumber
    return PlanarROIMeasurementsAndQualitativeEvaluations(**common, referenced_segment=frame)


def _overall_group(
    algorithm: AlgorithmIdentification, result: InferenceResult, sources: SourceImages, context: ResultContext
) -> MeasurementsAndQualitativeEvaluations:
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=tracking_uid(sources, context, OVERALL_TRACKING_ID), identifier=OVERALL_TRACKING_ID
        ),
        algorithm_id=algorithm,
        measurements=[_number(measurement) for measurement in result.overall],
    )


def _measured_images(finding: Finding, result: InferenceResult) -> list[SourceImageForMeasurementGroup]:
    """The images that a finding is seen on: those its mask touches, or all that were judged."""
    image = result.image
    if not isinstance(image, ImageVolume):
        frames = [image.frame]
    elif finding.segment is None:
        frames = list(image.frames)
    else:
        occupied = occupied_slices([result.segments[finding.segment]])
        frames = [image.frames[index] for index in occupied] or list(image.frames)
    by_instance: dict[tuple[str, str], list[int]] = {}
    for frame in frames:
        numbers = by_instance.setdefault((frame.sop_class_uid, frame.sop_instance_uid), [])
        if frame.frame_number is not None:
            numbers.append(frame.frame_number)
    return [SourceImageForMeasurementGroup(*uids, numbers or None) for uids, numbers in by_instance.items()]


def _number(measurement: Measurement) -> NumberItem:
    """TID 300. The value is written with as many decimals as are honest to show."""
    if not math.isfinite(measurement.value):
        raise ResultError(
            f"the measurement {measurement.concept.meaning!r} is not a number",
            found=str(measurement.value),
            mend="Check the model's output with its golden cases",
        )
    item = NumberItem(
        name=concept(measurement.concept),
        value=round(float(measurement.value), measurement.digits),
        unit=concept(measurement.unit),
        derivation=concept(measurement.derivation) if measurement.derivation is not None else None,
    )
    # highdicom writes 1.0 for a ratio of 1.00 and for a count of 1.
    written = f"{measurement.value:.{measurement.digits}f}"
    if len(written) <= _DECIMAL_STRING_LENGTH:
        item[0].MeasuredValueSequence[0].NumericValue = written
    return item


def _algorithm(result: InferenceResult) -> AlgorithmIdentification:
    """TID 4019."""
    algorithm = result.algorithm
    return AlgorithmIdentification(
        name=plain(algorithm.name),
        version=plain(algorithm.version),
        manufacturer=plain(algorithm.manufacturer),
        family=concept(algorithm.family),
        parameters=[plain(f"{name}={value}") for name, value in algorithm.parameters] or None,
    )


def _procedures(sources: SourceImages, modality: str) -> list[CodedConcept]:
    """Procedure reported (121058, DCM): as the study has it coded, else by modality (CID 100)."""
    procedures = []
    for item in sources.first.get("ProcedureCodeSequence") or []:
        value, scheme = text(item, "CodeValue"), text(item, "CodingSchemeDesignator")
        # The meaning must be ours to write in ASCII; one in another script falls back to the modality.
        meaning = text(item, "CodeMeaning")
        if 0 < len(value) <= 16 and 0 < len(scheme) <= 16 and 0 < len(meaning) <= 64 and plain(meaning) == meaning:
            procedures.append(CodedConcept(value, scheme, meaning))
    if procedures:
        return procedures
    return [concept(_PROCEDURES.get(modality, _ANY_PROCEDURE))]


def _evidence(sources: SourceImages, segmentation: Dataset | None) -> Dataset:
    """Item of the Current Requested Procedure Evidence Sequence (0040,A375): all images that were judged, and the SEG.

    The sources of a result are of one series (``SourceImages``).
    """
    series = [(sources.series_instance_uid, [reference(*uids) for uids in sources.instances])]
    if segmentation is not None:
        written = reference(SEGMENTATION_STORAGE, str(segmentation.SOPInstanceUID))
        series.append((str(segmentation.SeriesInstanceUID), [written]))
    return study_references(sources.study_instance_uid, series)


def _qualitative_evaluations(
    result: InferenceResult, sources: SourceImages, context: ResultContext
) -> ContainerContentItem:
    """TID 1500's container for what is said in words: each sentence a Comment, and the draft report as one more."""
    container = ContainerContentItem(name=concept(_QUALITATIVE_EVALUATIONS), relationship_type="CONTAINS")
    comments = [
        TextContentItem(name=concept(_COMMENT), value=plain(sentence), relationship_type="CONTAINS")
        for sentence in (f"{AI_STATEMENT}.", f"Intended use: {result.intended_use}", *result.notes)
        if sentence.strip()
    ]
    lines = as_text(draft_of(result, sources, context.language))
    draft = TextContentItem(
        name=concept(_COMMENT), value="\r\n".join(plain(line) for line in lines), relationship_type="CONTAINS"
    )
    draft.ContentSequence = LanguageOfContentItemAndDescendants(concept(words_of(context.language).code))
    container.ContentSequence = ContentSequence([*comments, draft])
    return container


def _predecessors(sources: SourceImages, context: ResultContext) -> Dataset:
    """Item of the Predecessor Documents Sequence (0040,A360): the reports of earlier revisions."""
    series = [
        (prior.series_instance_uid, [reference(COMPREHENSIVE_3D_SR_STORAGE, prior.sop_instance_uid)])
        for prior in context.predecessors
    ]
    return study_references(sources.study_instance_uid, series)
