"""One object that is to leave, and the check that it still is what was committed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import DeliveryRefused, DeliveryRetry


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A Part 10 file (PS3.10) in the spool, with what the journal knows of it.

    Attributes
    ----------
    path
        The file; only read.
    kind
        ``sr``, ``seg`` or ``sc``.
    bytes, sha256
        Size and SHA-256 (hex) of the whole file when it was committed.
    """

    path: Path
    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    bytes: int
    sha256: str

    def verify(self) -> None:
        """Check that the file is the committed one.

        Raises
        ------
        DeliveryRefused
            It is gone, or its bytes are not the committed ones: what reaches a PACS is what the model wrote.
        DeliveryRetry
            It cannot be read now.
        """
        try:
            with self.path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
                size = stream.tell()
        except FileNotFoundError as error:
            raise DeliveryRefused(
                "the file of the result is gone from the spool",
                mend="Run the job again, or restore the spool; then: appliance requeue",
            ) from error
        except OSError as error:
            raise unreadable(error) from error
        if digest != self.sha256:
            raise DeliveryRefused(
                "the file of the result was changed after it was committed",
                found=f"{size} bytes, SHA-256 {digest[:12]}…",
                expected=f"{self.bytes} bytes, SHA-256 {self.sha256[:12]}…",
                mend="Check the disk; run the job again, or restore the spool; then: appliance requeue",
            )


def unreadable(error: OSError) -> DeliveryRetry:
    """The error of a spool file that cannot be read."""
    return DeliveryRetry(
        "the file of the result cannot be read",
        found=error.strerror or type(error).__name__,
        mend="Check the disk, and that the spool belongs to the user of the appliance",
    )
