"""Who gets in when many want to."""

from __future__ import annotations

from appliance.config.settings import DicomNode
from appliance.intake.admission import to_make_room, too_many

NODE = DicomNode(max_associations=4, max_associations_per_peer=2)


def test_one_address_leaves_some_to_others() -> None:
    refusal = too_many(NODE, ["a", "a"], "a")
    assert refusal is not None and "max_associations_per_peer" in refusal[1]
    assert too_many(NODE, ["a", "a"], "b") is None


def test_no_more_than_there_are() -> None:
    refusal = too_many(NODE, ["a", "a", "b", "c"], "d")
    assert refusal is not None and "dicom.max_associations" in refusal[1]
    assert refusal[0] == (2, 3, 2), "transient: the peer tries again"


def test_who_holds_most_makes_room_with_the_oldest() -> None:
    assert to_make_room([]) is None
    assert to_make_room([("good", 1.0), ("bad", 5.0), ("bad", 3.0), ("bad", 4.0)]) == 2
    assert to_make_room([("a", 2.0), ("b", 1.0)]) == 1
