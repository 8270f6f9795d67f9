"""References to other objects, made by the hundred.

pydicom checks and converts each value that is set by attribute, which for a long series costs more than all the rest
of a report. The UIDs here come from sources that ``SourceImages`` has read, so they go in as they are.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

_SERIES_INSTANCE_UID = 0x0020000E
_STUDY_INSTANCE_UID = 0x0020000D
_REFERENCED_SERIES_SEQUENCE = 0x00081115
_REFERENCED_SOP_CLASS_UID = 0x00081150
_REFERENCED_SOP_INSTANCE_UID = 0x00081155
_REFERENCED_SOP_SEQUENCE = 0x00081199


def reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    """An SOP Instance Reference (PS3.3 table 10-11)."""
    item = Dataset()
    item[_REFERENCED_SOP_CLASS_UID] = _uid(_REFERENCED_SOP_CLASS_UID, sop_class_uid)
    item[_REFERENCED_SOP_INSTANCE_UID] = _uid(_REFERENCED_SOP_INSTANCE_UID, sop_instance_uid)
    return item


def study_references(study_instance_uid: str, series: Iterable[tuple[str, list[Dataset]]]) -> Dataset:
    """A Hierarchical SOP Instance Reference (PS3.3 table C.17-3): one study, its series, their instances."""
    study = Dataset()
    study[_STUDY_INSTANCE_UID] = _uid(_STUDY_INSTANCE_UID, study_instance_uid)
    study[_REFERENCED_SERIES_SEQUENCE] = sequence(
        _REFERENCED_SERIES_SEQUENCE, [_series(uid, instances) for uid, instances in series]
    )
    return study


def sequence(tag: int, items: list[Dataset]) -> DataElement:
    """A sequence element of ``items``."""
    return DataElement(tag, "SQ", Sequence(items), already_converted=True)


def _series(series_instance_uid: str, instances: list[Dataset]) -> Dataset:
    series = Dataset()
    series[_SERIES_INSTANCE_UID] = _uid(_SERIES_INSTANCE_UID, series_instance_uid)
    series[_REFERENCED_SOP_SEQUENCE] = sequence(_REFERENCED_SOP_SEQUENCE, instances)
    return series


def _uid(tag: int, value: str) -> DataElement:
    return DataElement(tag, "UI", UID(value, validation_mode=0), already_converted=True)
