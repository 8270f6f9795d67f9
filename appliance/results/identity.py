"""Whose result it is, and who made it: the patient, study, order and equipment attributes of every object.

What identifies the patient, the study and the order is carried over byte for byte; nothing else of the source is
copied. The series and the equipment are ours (PS3.3 sections C.7.1 to C.7.5, C.12.1).
"""

from __future__ import annotations

from copy import deepcopy
from datetime import datetime, timedelta, timezone
from typing import Final

from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from appliance.domain.forms import Form
from appliance.domain.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from appliance.domain.result import InferenceResult
from appliance.domain.states import Scope
from appliance.domain.uids import derived_uid
from appliance.results.context import ResultContext
from appliance.results.sources import SourceImages, numbers, text, unparsed
from appliance.results.text import plain
from appliance.version import __version__

MANUFACTURER: Final = "dicom-inference-appliance"
MODEL_NAME: Final = "Inference appliance"


_CARRIED: Final = (
    "SpecificCharacterSet",
    "TimezoneOffsetFromUTC",
    # Patient
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "TypeOfPatientID",
    "PatientBirthDate",
    "PatientBirthTime",
    "PatientSex",
    "OtherPatientIDsSequence",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    # Study, and the patient at its time
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "ProcedureCodeSequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    # Referrer and order
    "ReferringPhysicianName",
    "ReferringPhysicianIdentificationSequence",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
)
_TYPE_2: Final = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "ReferringPhysicianName",
    "AccessionNumber",
)
_MODALITY: Final[dict[Form, str]] = {"sr": "SR", "ko": "KO", "sc": "OT", "pdf": "DOC", "gsps": "PR", "seg": "SEG"}
_SERIES_OFFSET: Final[dict[Form, int]] = {"sr": 1, "seg": 2, "sc": 3, "gsps": 4, "ko": 5, "pdf": 6}


def series_uid(sources: SourceImages, context: ResultContext, form: Form) -> str:
    """Series Instance UID of the results in ``form``: one series for each source series, model and revision."""
    return derived_uid(
        sources.study_instance_uid,
        sources.series_instance_uid,
        *_origin(context),
        form,
        "series",
    )


def instance_uid(sources: SourceImages, context: ResultContext, form: Form, number: int = 1) -> str:
    """SOP Instance UID of object ``number`` (base 1) in ``form``."""
    scope = [sources.sop_instance_uid] if context.scope is Scope.INSTANCE else []
    return derived_uid(
        sources.study_instance_uid,
        sources.series_instance_uid,
        *scope,
        *_origin(context),
        form,
        str(number),
    )


def _origin(context: ResultContext) -> list[str]:
    """Who made a result: what UIDs derive from besides the images."""
    return [context.model_key, str(context.revision), *(["shadow"] if context.shadow else [])]


def tracking_uid(sources: SourceImages, context: ResultContext, tracking_id: str) -> str:
    """Tracking Unique Identifier (112040, DCM) of a finding: the same in every run, revision and model version."""
    scope = [sources.sop_instance_uid] if context.scope is Scope.INSTANCE else []
    return derived_uid(
        sources.study_instance_uid,
        sources.series_instance_uid,
        *scope,
        context.model_name,
        tracking_id,
        "tracking",
    )


def device_uid(context: ResultContext) -> str:
    """Device Observer UID (121012, DCM) of this appliance."""
    return derived_uid(MANUFACTURER, context.device_serial, "device")


def stand_in(sources: SourceImages, dataset: Dataset) -> Dataset:
    """A data set that names ``dataset`` and nobody: what highdicom gets to see of a source.

    highdicom copies and checks the patient's and the study's attributes of its sources, and refuses odd ones. It
    gets empty ones; ``write_header`` then puts in the true ones unchanged.
    """
    item = Dataset()
    item.SOPClassUID = text(dataset, "SOPClassUID")
    item.SOPInstanceUID = text(dataset, "SOPInstanceUID")
    item.StudyInstanceUID = sources.study_instance_uid
    item.SeriesInstanceUID = text(dataset, "SeriesInstanceUID")
    for keyword in _TYPE_2:
        setattr(item, keyword, None)
    return item


def write_header(
    target: Dataset,
    sop_class_uid: str,
    result: InferenceResult,
    sources: SourceImages,
    context: ResultContext,
    form: Form,
    number: int = 1,
) -> None:
    """Set the patient, study, series, equipment and SOP common attributes of ``target``, and its file meta.

    Parameters
    ----------
    target
        The object; values that are already there are replaced.
    form, number
        Which object of the result it is; ``number`` counts from 1.
    """
    for keyword in _TYPE_2:
        setattr(target, keyword, None)
    for keyword in _CARRIED:
        _carry(target, sources.first, keyword)
    if text(target, "PatientIdentityRemoved") == "YES" and not (
        "DeidentificationMethod" in target or "DeidentificationMethodCodeSequence" in target
    ):
        # The Patient Module wants a method then; anonymizers that leave it out, or empty, are common.
        target.DeidentificationMethod = "Not stated in the source images"

    target.SeriesInstanceUID = series_uid(sources, context, form)
    target.SeriesNumber = _series_number(sources, form)
    target.SeriesDescription = f"{plain(result.title, 60)} {form.upper()}".strip()
    target.Modality = _MODALITY[form]
    target.SOPClassUID = sop_class_uid
    target.SOPInstanceUID = instance_uid(sources, context, form, number)
    target.InstanceNumber = _instance_number(sources, context, number)

    moment = _local_moment(sources, context.created_at)
    date, time = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")
    target.InstanceCreationDate = target.ContentDate = date
    target.InstanceCreationTime = target.ContentTime = time

    target.Manufacturer = MANUFACTURER
    target.ManufacturerModelName = MODEL_NAME
    target.DeviceSerialNumber = plain(context.device_serial, 64)
    target.SoftwareVersions = [__version__, plain(context.model_key, 64)]
    target.ContributingEquipmentSequence = [_algorithm_equipment(result)]

    # Tells pydicom that the carried bytes are in the encoding of this object, so that it does not decode and encode
    # them: it would replace what is not of the character set that the sources name.
    names = target.get("SpecificCharacterSet")
    target.set_original_encoding(False, True, convert_encodings(names) if names else default_encoding)

    target.file_meta = FileMetaDataset()
    target.file_meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    target.file_meta.MediaStorageSOPInstanceUID = UID(target.SOPInstanceUID)
    target.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    target.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    target.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME


def carry_request(target: Dataset, sources: SourceImages) -> None:
    """Carry over the Request Attributes Sequence (0040,0275) of the General Series Module.

    Without the identifiers that are empty, as modalities without a worklist send them: they are of type 1C there.
    """
    _carry(target, sources.first, "RequestAttributesSequence")
    for item in target.get("RequestAttributesSequence") or []:
        for keyword in ("RequestedProcedureID", "ScheduledProcedureStepID"):
            if keyword in item and not text(item, keyword):
                delattr(item, keyword)


def carry_lossy_compression(target: Dataset, sources: SourceImages) -> None:
    """Say so when the sources were compressed with loss: what is derived from them says it too (C.7.6.1.1.5)."""
    if text(sources.first, "LossyImageCompression") == "01":
        for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            _carry(target, sources.first, keyword)


def referenced_requests(sources: SourceImages) -> list[Dataset]:
    """Items of the Referenced Request Sequence (0040,A370) of an SR: the orders that the source images name.

    The SR Document General Module has the order here, not in its series (PS3.3 section C.17.2). Attributes of type 2
    that the source lacks are empty.
    """
    requests = sources.first.get("RequestAttributesSequence") or []
    if not requests and not text(sources.first, "AccessionNumber"):
        return []
    items = []
    for request in requests or [Dataset()]:
        item = Dataset()
        item.StudyInstanceUID = sources.study_instance_uid
        item.ReferencedStudySequence = []
        item.RequestedProcedureCodeSequence = []
        for keyword in (
            "AccessionNumber",
            "PlacerOrderNumberImagingServiceRequest",
            "FillerOrderNumberImagingServiceRequest",
            "RequestedProcedureID",
            "RequestedProcedureDescription",
        ):
            setattr(item, keyword, None)
        for keyword in ("AccessionNumber", "IssuerOfAccessionNumberSequence"):
            _carry(item, sources.first, keyword)
        for keyword in (
            "AccessionNumber",
            "IssuerOfAccessionNumberSequence",
            "PlacerOrderNumberImagingServiceRequest",
            "FillerOrderNumberImagingServiceRequest",
            "OrderPlacerIdentifierSequence",
            "OrderFillerIdentifierSequence",
            "RequestedProcedureID",
            "RequestedProcedureDescription",
            "RequestedProcedureCodeSequence",
        ):
            _carry(item, request, keyword)
        items.append(item)
    return items


def _carry(target: Dataset, source: Dataset, keyword: str) -> None:
    """Copy one element as it is: as its bytes when it has not been parsed yet, so that odd values stay exact.

    An empty one adds nothing: what must be there empty (type 2) is there before.
    """
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in source:
        return
    raw, vr = unparsed(source, tag), dictionary_VR(tag)
    if raw is None or raw.value is None or vr == "SQ":
        if not source[tag].is_empty:
            target[tag] = deepcopy(source[tag])
        return
    if not raw.value:
        return
    # Implicit VR sources have no VR, and some devices write UN for elements of the dictionary. A value of odd length
    # would make the whole file unreadable, so that much is mended.
    value = raw.value if len(raw.value) % 2 == 0 else raw.value + (b"\0" if vr == "UI" else b" ")
    target[tag] = raw._replace(VR=vr, is_implicit_VR=False, value=value, length=len(value))


def _local_moment(sources: SourceImages, moment: datetime) -> datetime:
    """``moment`` in the time zone that all dates and times of the object are in (PS3.3 section C.12.1.1.8)."""
    offset = text(sources.first, "TimezoneOffsetFromUTC")
    if moment.tzinfo is None or len(offset) != 5 or offset[0] not in "+-" or not offset[1:].isdigit():
        return moment
    delta = timedelta(hours=int(offset[1:3]), minutes=int(offset[3:]))
    return moment.astimezone(timezone(-delta if offset[0] == "-" else delta)) if delta < timedelta(days=1) else moment


def _series_number(sources: SourceImages, form: Form) -> int:
    """Beside the source series in a sorted list: series 4 gives 401 (SR), 402 (SEG), 403 (SC) and so on."""
    source = numbers(sources.first, "SeriesNumber")
    number = int(source[0]) if source and 0 < source[0] < 10_000 else 90
    return number * 100 + _SERIES_OFFSET[form]


def _instance_number(sources: SourceImages, context: ResultContext, number: int) -> int:
    """Results of single images share a series with those of their siblings, so they repeat the image's number."""
    if context.scope is not Scope.INSTANCE:
        return number
    source = numbers(sources.first, "InstanceNumber")
    return (int(source[0]) if source and 0 < source[0] < 1_000_000 else 1) + number - 1


def _algorithm_equipment(result: InferenceResult) -> Dataset:
    """The algorithm as processing equipment, for readers that know neither TID 4019 nor its SEG counterpart."""
    purpose = Dataset()
    purpose.CodeValue = "109102"
    purpose.CodingSchemeDesignator = "DCM"
    purpose.CodeMeaning = "Processing Equipment"
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [purpose]
    item.Manufacturer = plain(result.algorithm.manufacturer, 64)
    item.ManufacturerModelName = plain(result.algorithm.name, 64)
    item.SoftwareVersions = plain(result.algorithm.version, 64)
    return item
