"""The MPPS SCP: modalities tell of their work, and which images they have made (PS3.4 annex F.7)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import evt
from pynetdicom.dsutils import decode, encode
from pynetdicom.sop_class import ModalityPerformedProcedureStep  # type: ignore[attr-defined]

from appliance.domain.states import ProcedureStepState
from appliance.domain.uids import is_valid_uid
from appliance.intake.dimse_service import Handler
from appliance.intake.procedure_step import (
    DUPLICATE_SOP_INSTANCE,
    INVALID_SOP_INSTANCE,
    NO_LONGER_UPDATED,
    NO_SUCH_OBJECT,
    NO_SUCH_SOP_CLASS,
    PROCESSING_FAILURE,
    StepRefused,
    changed,
    check_new,
    listed_images,
    state_of,
)
from appliance.journal.hints import send_hint
from appliance.journal.journal import Journal
from appliance.observability.metrics import Metrics

_log = logging.getLogger(__name__)

SUCCESS: Final = 0x0000
RESOURCE_LIMITATION: Final = 0x0213
_MAX_COMMENT: Final = 64


class MppsScp:
    """Keeps what modalities say of their procedure steps; the journal is on the disk before they are answered.

    Parameters
    ----------
    stable_age_s
        For how long after its last image a series waits for images that a step has listed.
    send_on
        Whether all of it is to be sent on to the RIS.
    run_folder
        Where the wake-up sockets are.
    """

    sop_class_uids = (str(ModalityPerformedProcedureStep),)

    def __init__(
        self, journal: Journal, metrics: Metrics, *, stable_age_s: float, send_on: bool, run_folder: Path
    ) -> None:
        self._steps = journal.procedure_steps
        self._metrics = metrics
        self._stable_age_s = stable_age_s
        self._send_on = send_on
        self._run_folder = run_folder

    @property
    def handlers(self) -> list[Handler]:
        """Of N-CREATE and N-SET."""
        return [(evt.EVT_N_CREATE, self._created), (evt.EVT_N_SET, self._set)]

    def _created(self, event: Any) -> tuple[Dataset, Dataset | None]:
        """EVT_N_CREATE (PS3.4 section F.7.2.1)."""
        uid = event.request.AffectedSOPInstanceUID
        answer = None
        if uid is None:  # then it is ours to choose (PS3.7 section 10.1.5.1.4)
            uid = generate_uid(None)
            answer = Dataset()
            answer.AffectedSOPInstanceUID = uid
        return self._answer(event.request.AffectedSOPClassUID, lambda: self._create(str(uid), event)), answer

    def _set(self, event: Any) -> tuple[Dataset, Dataset | None]:
        """EVT_N_SET (PS3.4 section F.7.2.2)."""
        uid = str(event.request.RequestedSOPInstanceUID)
        return self._answer(event.request.RequestedSOPClassUID, lambda: self._change(uid, event)), None

    def _answer(self, sop_class_uid: object, act: Callable[[], str]) -> Dataset:
        """Do it; return the status data set (PS3.7 section C.5)."""
        answer = Dataset()
        try:
            if str(sop_class_uid) not in self.sop_class_uids:
                raise StepRefused(NO_SUCH_SOP_CLASS, "the SOP class is not that of the context")
            outcome = act()
            answer.Status = SUCCESS
        except StepRefused as refusal:
            outcome = "refused"
            _log.warning("refused a message about a procedure step: %s", refusal.comment)
            answer.Status = refusal.status
            answer.ErrorComment = refusal.comment[:_MAX_COMMENT]
            if refusal.error_id is not None:
                answer.ErrorID = refusal.error_id
        except OSError as error:
            outcome = "disk-error"
            _log.error("cannot keep a procedure step: %s", error.strerror)
            answer.Status = RESOURCE_LIMITATION
        except Exception:  # noqa: BLE001 - the library would answer 0x0110 and tell nobody; the peer may try again
            outcome = "error"
            _log.exception("cannot take a message about a procedure step")
            answer.Status = PROCESSING_FAILURE
            answer.ErrorComment = "internal error, see the log"
        self._metrics.procedure_steps.labels(outcome).inc()
        return answer

    def _create(self, uid: str, event: Any) -> str:
        if not is_valid_uid(uid):
            raise StepRefused(INVALID_SOP_INSTANCE, "the SOP Instance UID is not a UID")
        with _reading():
            step = event.attribute_list
            check_new(step)
            encoded = _encoded(step)
        if not self._steps.create(uid, encoded, time.time(), send_on=self._send_on):
            raise StepRefused(DUPLICATE_SOP_INSTANCE, "a step with this UID is known")
        self._wake_sender()
        _log.info("a procedure step has begun")
        return "created"

    def _change(self, uid: str, event: Any) -> str:
        while True:
            known = self._steps.find(uid)
            if known is None:
                raise StepRefused(NO_SUCH_OBJECT, "no step with this UID is known")
            if known.state is not ProcedureStepState.IN_PROGRESS:
                raise StepRefused(PROCESSING_FAILURE, "the step may no longer be updated", NO_LONGER_UPDATED)
            with _reading():
                modification = _encoded(event.modification_list)
                step = changed(decode(BytesIO(known.data_set), False, True), event.modification_list)
                state = state_of(step)
                ended = state is not ProcedureStepState.IN_PROGRESS
                images = listed_images(step) if ended else []
                encoded = _encoded(step)
            if self._steps.change(
                known,
                state,
                encoded,
                time.time(),
                modification=modification,
                listed=images,
                stable_age_s=self._stable_age_s,
                send_on=self._send_on,
            ):
                break  # else another association came first
        self._wake_sender()
        if not ended:
            return "changed"
        send_hint(self._run_folder, "assembler")
        _log.info("a procedure step is %s: it lists %d image(s) in %d series", state, len(images), len(dict(images)))
        return str(state)

    def _wake_sender(self) -> None:
        if self._send_on:
            send_hint(self._run_folder, "sender")


@contextmanager
def _reading() -> Iterator[None]:
    """Refuse what the library cannot read: it looks at values when they are asked for, and raises whatever it likes."""
    try:
        yield
    except StepRefused:
        raise
    except Exception as error:
        _log.debug("a data set cannot be read", exc_info=error)
        raise StepRefused(PROCESSING_FAILURE, "the data set cannot be read") from error


def _encoded(dataset: Dataset) -> bytes:
    """As Explicit VR Little Endian.

    Raises
    ------
    StepRefused
        A value cannot be written as its VR has it.
    """
    encoded = encode(dataset, False, True)
    if encoded is None:
        raise StepRefused(PROCESSING_FAILURE, "a value is not as its VR has it")
    return encoded
