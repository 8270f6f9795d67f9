"""The Key Object Selection of a result (PS3.16 TID 2010): the images that matter most, to be looked at first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from highdicom.sr import ContainerContentItem, TextContentItem
from pydicom.dataset import Dataset

from appliance.domain.codes import Code
from appliance.domain.image import ImageVolume, SourceFrame
from appliance.domain.result import InferenceResult
from appliance.results.coded import concept
from appliance.results.context import ResultContext
from appliance.results.identity import referenced_requests, write_header
from appliance.results.observer import observation_context
from appliance.results.references import reference, study_references
from appliance.results.sources import SourceImages
from appliance.results.text import AI_STATEMENT, plain

KEY_OBJECT_SELECTION_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.88.59"

_OF_INTEREST: Final = Code("113000", "DCM", "Of Interest")
_DESCRIPTION: Final = Code("113012", "DCM", "Key Object Description")


def write_key_objects(result: InferenceResult, sources: SourceImages, context: ResultContext) -> list[Dataset]:
    """Select, for each outlined finding, the image that shows most of it; of a radiograph the image itself.

    Returns
    -------
    list[Dataset]
        One document with file meta information, Explicit VR Little Endian; none for a volume without an outline.

    Raises
    ------
    ResultError
        The sources are not those of the image.
    """
    sources.check_against(result.image)
    frames = list(key_frames(result))
    if not frames:
        return []
    description = (
        f"{AI_STATEMENT}. Where {result.algorithm.name} {result.algorithm.version} outlined most: {result.title}"
    )
    content = ContainerContentItem(name=concept(_OF_INTEREST), is_content_continuous=False, template_id="2010")
    document = Dataset()
    for element in content:
        document.add(element)
    document.ContentSequence = [
        *observation_context(context),
        TextContentItem(concept(_DESCRIPTION), plain(description, 1024), relationship_type="CONTAINS"),
        *(_image(frame) for frame in frames),
    ]
    document.ReferencedPerformedProcedureStepSequence = []
    write_header(document, KEY_OBJECT_SELECTION_STORAGE, result, sources, context, "ko")
    uids = dict.fromkeys((frame.sop_class_uid, frame.sop_instance_uid) for frame in frames)
    evidence = [(sources.series_instance_uid, [reference(*pair) for pair in uids])]
    document.CurrentRequestedProcedureEvidenceSequence = [study_references(sources.study_instance_uid, evidence)]
    requests = referenced_requests(sources)
    if requests:
        document.ReferencedRequestSequence = requests
    return [document]


def key_frames(result: InferenceResult) -> Iterable[SourceFrame]:
    """The frames that matter most, in the order of the findings, each once."""
    image = result.image
    if not isinstance(image, ImageVolume):
        return [image.frame]
    frames = []
    for finding in result.findings:
        if finding.segment is not None:
            areas = [np.count_nonzero(plane) for plane in result.segments[finding.segment].mask]
            if any(areas):
                frames.append(image.frames[int(np.argmax(areas))])
    return dict.fromkeys(frames)


def _image(frame: SourceFrame) -> Dataset:
    """An IMAGE without a concept name, as the template has it."""
    image = reference(frame.sop_class_uid, frame.sop_instance_uid)
    if frame.frame_number is not None:
        image.ReferencedFrameNumber = frame.frame_number
    item = Dataset()
    item.RelationshipType = "CONTAINS"
    item.ValueType = "IMAGE"
    item.ReferencedSOPSequence = [image]
    return item
