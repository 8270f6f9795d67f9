"""The one tree of errors.

Every error tells the operator what was found, what was expected and what to do. ``retryable`` says whether trying
the same thing again later can help; ``exit_code`` is what the command line ends with when the error reaches it.
Messages never hold identifying data (names, patient ids, UIDs): they end in logs and metrics.
"""

from __future__ import annotations

from typing import ClassVar


class ApplianceError(Exception):
    """Base of all errors that the appliance raises on purpose.

    Parameters
    ----------
    what
        What went wrong, in one sentence without a full stop.
    found
        What was found, as a short phrase.
    expected
        What was expected instead, as a short phrase.
    mend
        What the reader can do about it, in the imperative.
    """

    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(
        self, what: str, *, found: str | None = None, expected: str | None = None, mend: str | None = None
    ) -> None:
        self.what = what
        self.found = found
        self.expected = expected
        self.mend = mend
        super().__init__(what)

    def __str__(self) -> str:
        text = self.what
        if self.found is not None:
            text += f": found {self.found}"
        if self.expected is not None:
            text += f", expected {self.expected}"
        if self.mend is not None:
            text += f". {self.mend}"
        return text


class ConfigurationError(ApplianceError):
    """The settings file is missing, malformed or contradicts itself (exit code 78, ``EX_CONFIG``)."""

    exit_code = 78


class ModelPackageError(ApplianceError):
    """A model package is malformed, or its files are not the ones its manifest names."""

    exit_code = 65


class WeightsUnavailable(ModelPackageError):
    """A model package is sound but its weights have not been fetched yet."""

    exit_code = 69


class VerificationFailed(ModelPackageError):
    """A model is further from the reference on its golden images than its package allows: it must not serve."""


class RejectedInput(ApplianceError):
    """A file or data set that is not taken in; ``reason`` is its stable, non-identifying slug.

    Attributes
    ----------
    reason
        Lower-case slug such as ``not-dicom`` or ``truncated``: a metric label, so the set is closed by the callers.
    """

    exit_code = 65

    def __init__(
        self,
        reason: str,
        what: str,
        *,
        found: str | None = None,
        expected: str | None = None,
        mend: str | None = None,
    ) -> None:
        super().__init__(what, found=found, expected=expected, mend=mend)
        self.reason = reason


class UnsuitableImage(RejectedInput):
    """An image that a model cannot judge. Permanent and explained: a wrong result is worse than none."""


class DecoderLost(ApplianceError):
    """The process that decodes pixel data was killed from outside, for want of memory perhaps; it is tried again."""

    retryable = True
    exit_code = 74


class SpoolFull(ApplianceError):
    """The disk is below the water mark; reception answers 0xA700 until there is room (PS3.4 annex B.2.3)."""

    retryable = True
    exit_code = 74


class JournalError(ApplianceError):
    """The journal cannot be opened or holds what it must not."""

    exit_code = 74


class BackupError(ApplianceError):
    """A backup cannot be made there, or cannot be restored: it is damaged, or the state folder is in use."""

    exit_code = 74


class IllegalTransition(JournalError):
    """A state machine was asked for an arrow that its table does not list."""


class BackendUnavailable(ApplianceError):
    """An inference backend cannot run here; the message says what is missing."""

    exit_code = 69


class InferenceFailed(ApplianceError):
    """The backend ran and failed. Trying again can help (memory pressure, a driver hiccup), so it is retried."""

    retryable = True


class InferenceTimeout(InferenceFailed):
    """The model took longer than the time limit of its manifest."""


class DeviceOutOfMemory(InferenceFailed):
    """The accelerator's memory does not suffice; the message holds the figures. Others may free some: it is retried."""


class DeviceLost(InferenceFailed):
    """The accelerator is gone: the process must end so that its leases return and a fresh one starts."""


class ResultError(ApplianceError):
    """A result object could not be made, or did not read back as it was written."""


class DeliveryError(ApplianceError):
    """A destination does not have the object.

    Attributes
    ----------
    status
        The status of its C-STORE answer (PS3.4 section B.2.3), ``None`` when it gave none.
    """

    def __init__(
        self,
        what: str,
        *,
        status: int | None = None,
        found: str | None = None,
        expected: str | None = None,
        mend: str | None = None,
    ) -> None:
        super().__init__(what, found=found, expected=expected, mend=mend)
        self.status = status


class DeliveryRetry(DeliveryError):
    """The destination did not take the object now but may later (PS3.4: 0xA7xx; aborted; timeout)."""

    retryable = True


class DestinationUnreachable(DeliveryRetry):
    """The destination took nothing and was offered nothing (refused, rejected, folder gone): no object is to blame."""


class DeliveryRefused(DeliveryError):
    """The destination will never take this object as it is (PS3.4: 0xA9xx, 0xCxxx, 0x0122)."""
