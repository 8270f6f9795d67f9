"""What may be concluded when a sender is done."""

from __future__ import annotations

from appliance.intake.shares import SeriesShares
from appliance.intake.store import Acceptance, Outcome


def shares(*acceptances: Acceptance) -> SeriesShares:
    result = SeriesShares()
    for acceptance in acceptances:
        result.add(acceptance)
    return result


def new(series: str = "1", images: int = 1) -> Acceptance:
    return Acceptance(Outcome.STORED, series, int(series) * 10, images)


def again(series: str = "1") -> Acceptance:
    return Acceptance(Outcome.DUPLICATE, series, None, 1)


def test_two_images_or_a_multi_frame_one() -> None:
    assert shares(new("1"), new("1"), new("2"), new("3", images=40)).whole() == [10, 30]


def test_a_resend_with_one_new_image_is_whole() -> None:
    assert shares(again(), again(), new()).whole() == [10]


def test_nothing_new_is_nothing_to_complete() -> None:
    assert shares(again(), again()).whole() == []


def test_conflicts_do_not_count() -> None:
    assert shares(new(), Acceptance(Outcome.CONFLICT, "1", None, 1)).whole() == []


def test_not_while_another_sender_is_at_it() -> None:
    assert shares(new("1"), new("1"), new("2"), new("2")).whole([shares(new("2"))]) == [10]
