"""Every model answers *yes*, or *no* with a reason that an operator understands and that names no patient."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.datadict import tag_for_keyword

from appliance.domain.attributes import MATCH_ATTRIBUTES, AttributeValue
from appliance.manifest.matching import Condition, Match

MR = "1.2.840.10008.5.1.4.1.1.4"
CT = "1.2.840.10008.5.1.4.1.1.2"


def refusal(value: AttributeValue | None, **rule: Any) -> str | None:
    """What a condition on EchoTime says to a value."""
    return Condition(attribute="EchoTime", because="why", **rule).refusal(value)


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        ({"pattern": "^T1"}, "T1 MPRAGE", None),
        ({"pattern": "^T1"}, "T2", "EchoTime does not match (why)"),
        ({"pattern": "(?i)chest"}, "CHEST AP", None),
        ({"pattern": r"^ORIGINAL\\PRIMARY"}, ["ORIGINAL", "PRIMARY", "M"], None),
        ({"pattern": r"^PRIMARY"}, ["ORIGINAL", "PRIMARY"], "EchoTime does not match (why)"),
        ({"pattern": "^3$"}, 3, None),
        ({"excludes": "flair"}, "t1", None),
        ({"excludes": "(?i)flair"}, "T2 FLAIR", "EchoTime is excluded (why)"),
        ({"pattern": "t2", "excludes": "flair"}, "t2 flair", "EchoTime is excluded (why)"),
        ({"min": 2}, 2, None),
        ({"min": 2}, 1.999, "EchoTime is 1.999, below 2 (why)"),
        ({"max": 15}, 15.0, None),
        ({"max": 15}, 16, "EchoTime is 16, above 15 (why)"),
        ({"min": 1, "max": 1}, 1, None),
        ({"max": 15}, "3.5", None),
        ({"max": 15}, "short", "EchoTime is not a number (why)"),
        ({"max": 15}, "nan", "EchoTime is not a number (why)"),
        ({"min": 15}, float("inf"), "EchoTime is not a number (why)"),
        ({"max": 15}, ["1", "2"], "EchoTime has several values, one number is expected (why)"),
        ({"pattern": "^1", "max": 15}, "100", "EchoTime is 100, above 15 (why)"),
    ],
)
def test_conditions(rule: dict[str, Any], value: AttributeValue, expected: str | None) -> None:
    assert refusal(value, **rule) == expected


@pytest.mark.parametrize("rule", [{"pattern": "x"}, {"excludes": "x"}, {"min": 1}, {"max": 1}])
def test_an_absent_attribute(rule: dict[str, Any]) -> None:
    """What an image without it gets is said by the manifest, and *no* when it says nothing."""
    assert refusal(None, **rule) == "EchoTime is absent (why)"
    assert refusal(None, absent="reject", **rule) == "EchoTime is absent (why)"
    assert refusal(None, absent="accept", **rule) is None


MATCH = Match(
    modality=["MR", "CT"],
    sop_class_uid=[MR],
    min_images=3,
    conditions=[
        Condition(attribute="EchoTime", max=15, absent="accept", because="T1 only"),
        Condition(attribute="SeriesDescription", excludes="scout", absent="accept", because="no scouts"),
    ],
)


@pytest.mark.parametrize(
    ("classes", "images", "attributes", "expected"),
    [
        ({MR}, 3, {"Modality": "MR"}, None),
        ({MR}, 3, {"Modality": "US"}, "Modality is US, wants MR or CT"),
        ({MR}, 3, {}, "Modality is absent, wants MR or CT"),
        ({CT}, 3, {"Modality": "MR"}, "its SOP class is not among those the model takes"),
        ({MR, CT}, 3, {"Modality": "MR"}, "its SOP class is not among those the model takes"),
        ({MR}, 2, {"Modality": "MR"}, "2 image(s), wants at least 3"),
        ({MR}, 3, {"Modality": "MR", "EchoTime": 90}, "EchoTime is 90, above 15 (T1 only)"),
        ({MR}, 3, {"Modality": "MR", "SeriesDescription": "scout"}, "SeriesDescription is excluded (no scouts)"),
        (
            {MR},
            3,
            {"Modality": "MR", "EchoTime": 90, "SeriesDescription": "scout"},
            "EchoTime is 90, above 15 (T1 only)",
        ),
    ],
)
def test_matching(classes: set[str], images: int, attributes: dict[str, AttributeValue], expected: str | None) -> None:
    assert MATCH.refusal(frozenset(classes), images, attributes) == expected


def test_a_text_is_never_repeated_in_the_reason() -> None:
    """Descriptions are typed by people, who type names into them; reasons end in logs and on pages."""
    for value in ("DOE^JOHN", ["DOE", "JOHN"]):
        for rule in ({"pattern": "x"}, {"excludes": "J"}, {"min": 1.0}):
            condition = Condition.model_validate({"attribute": "SeriesDescription", "because": "why", **rule})
            reason = condition.refusal(value)
            assert reason is not None
            assert "DOE" not in reason and "JOHN" not in reason


@pytest.mark.parametrize("keyword", MATCH_ATTRIBUTES)
def test_every_attribute_is_known_to_the_standard(keyword: str) -> None:
    assert tag_for_keyword(keyword) == MATCH_ATTRIBUTES[keyword]


def test_no_attribute_identifies_a_patient() -> None:
    assert not [
        keyword for keyword in MATCH_ATTRIBUTES if keyword.startswith("Patient") and keyword != "PatientOrientation"
    ]
    assert not [tag for tag in MATCH_ATTRIBUTES.values() if tag >> 16 == 0x0010]
