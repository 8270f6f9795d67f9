"""``appliance destinations test``: one object of each form to a destination, and what it says to each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pydicom.uid import UID

from appliance.config import settings as sections
from appliance.config.reader import read_settings
from appliance.delivery.base import Destination
from appliance.delivery.destinations import make_destination
from appliance.delivery.outgoing import Outgoing
from appliance.delivery.status import meaning
from appliance.domain.forms import FORMS
from appliance.errors import ConfigurationError, DeliveryError, DestinationUnreachable
from appliance.results.objects import write_results
from appliance.results.sample import sample_result

_SIZE = 128
_EXIT_NOT_ACCEPTED = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """What a destination said to one form.

    ``asked`` is whether the settings send it this form; ``words`` say what became of the object.
    """

    form: str
    sop_class: str
    asked: bool
    accepted: bool
    words: str


def test_destination(config: Path | None, name: str, *, as_json: bool) -> int:
    """Send the result of a clearly marked test patient in every form; print what is accepted.

    Returns 0 when all forms that the settings send to the destination were accepted, else 1.
    """
    settings = read_settings(config)
    wanted = _find(settings, name)
    destination = make_destination(wanted, settings.dicom.ae_title)
    with TemporaryDirectory(prefix="appliance-test-") as folder:
        outgoing = [
            Outgoing(
                path=item.path,
                kind=item.kind,
                sop_class_uid=item.sop_class_uid,
                sop_instance_uid=item.sop_instance_uid,
                transfer_syntax_uid=item.transfer_syntax_uid,
                bytes=item.bytes,
                sha256=item.sha256,
            )
            for item in write_results(*sample_result(_SIZE), Path(folder), FORMS)
        ]
        answers = _answers(destination, outgoing, wanted.results)
    if as_json:
        print(json.dumps([asdict(answer) for answer in answers], indent=2))
    else:
        _show(name, answers)
    return _EXIT_NOT_ACCEPTED if any(answer.asked and not answer.accepted for answer in answers) else 0


def _find(settings: sections.Settings, name: str) -> sections.Destination:
    for destination in settings.destinations:
        if destination.name == name:
            return destination
    raise ConfigurationError(
        f"there is no destination {name!r} in the settings",
        found=", ".join(destination.name for destination in settings.destinations) or "none",
        mend="Name one of these, or add it under destinations",
    )


def _answers(destination: Destination, outgoing: Sequence[Outgoing], asked: Sequence[str]) -> list[Answer]:
    answers = []
    destination.announce(outgoing)
    try:
        for one in outgoing:
            accepted, words = _send(destination, one)
            answers.append(Answer(one.kind, UID(one.sop_class_uid).name, one.kind in asked, accepted, words))
    finally:
        destination.close()
    return answers


def _send(destination: Destination, outgoing: Outgoing) -> tuple[bool, str]:
    try:
        status = destination.send(outgoing)
    except DestinationUnreachable:
        raise  # the others would fare no better
    except DeliveryError as error:
        return False, str(error)
    return True, "accepted" if not status else f"accepted, {meaning(status)}"


def _show(name: str, answers: Sequence[Answer]) -> None:
    print(
        f"Test patient APPLIANCE-TEST (TEST, NOT A PATIENT) sent to {name}; delete it there when you have looked at it."
    )
    for answer in answers:
        sent = "sent by the settings" if answer.asked else "not sent by the settings"
        print(f"    {answer.form:5}{answer.sop_class:48}{sent:26}{answer.words}")
