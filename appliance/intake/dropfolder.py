"""The drop folder: files, sub-folders and zip archives that are copied into it are taken in and removed from it.

Notifications (inotify by way of watchdog) are hints; looking through the folder every few seconds is the truth, as on
network mounts there are none. A file is first copied durably into the spool and journaled, then removed: a crash in
between makes a duplicate, which is recognised, and never a loss. It is copied rather than linked or moved, because
whoever wrote it may still have it open.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

from appliance.config.settings import DropFolder as DropFolderSettings
from appliance.errors import RejectedInput, SpoolFull
from appliance.intake.archive import Archive, is_archive
from appliance.intake.assembler import Assembler
from appliance.intake.part10 import scan
from appliance.intake.quiet_files import QuietFiles, Signature
from appliance.intake.shares import SeriesShares
from appliance.intake.shelf import RejectedShelf
from appliance.intake.store import Acceptance, InstanceStore
from appliance.intake.sub_folders import SubFolders
from appliance.observability.guarded_thread import GuardedThread
from appliance.spool.durable import SyncFailed
from appliance.spool.incoming import Incoming

_log = logging.getLogger(__name__)

SOURCE: Final = "dropfolder"
"""How instances came that came this way, in the journal and the metrics."""

_BLOCK_BYTES: Final = 1024 * 1024
_HINTS_PILE_UP_S: Final = 0.1
_REST_FACTOR: Final = 4.0
"""A hundred thousand files take two seconds to look through, which reception, in the same process, would lack."""
_NEWS: Final[list[type[FileSystemEvent]]] = [
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
]
"""Not the events that come of our own reading and removing."""


class DropFolder:
    """Watches one folder, in a thread of its own.

    Parameters
    ----------
    folder
        The folder; made if it is not there.
    shelf
        Where the files go that are not taken.
    on_fatal
        Called when the thread has failed and the role has to end.
    """

    def __init__(
        self,
        settings: DropFolderSettings,
        folder: Path,
        store: InstanceStore,
        shelf: RejectedShelf,
        assembler: Assembler,
        *,
        on_fatal: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._store = store
        self._shelf = shelf
        self._assembler = assembler
        self._files = QuietFiles(folder, settings.quiet_s)
        self._sub_folders = SubFolders(
            folder, settings.quiet_s, lambda ids: assembler.settle(ids, time.time(), "folder complete")
        )
        self._troubles: dict[Path, str] = {}
        self._left_alone: dict[Path, Signature] = {}
        self._looked_s = 0.0
        self._hint = threading.Event()
        self._stopping = threading.Event()
        self._thread = GuardedThread("dropfolder", self._run, on_fatal)
        self._observer = Observer()

    def start(self) -> None:
        """Begin; what is in the folder already is taken too.

        Raises
        ------
        OSError
            The folder cannot be made.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        # It calls an event that is read while it is being stopped an error; no event is needed, see the module.
        logging.getLogger("watchdog").setLevel(logging.CRITICAL)
        try:
            self._observer.schedule(_Hints(self._hint), str(self._folder), recursive=True, event_filter=_NEWS)
            self._observer.start()
        except OSError as error:
            _log.warning(
                "no notifications for the drop folder (%s), it is looked through every %g s",
                error.strerror,
                self._settings.poll_s,
            )
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End after the file that is being taken."""
        self._stopping.set()
        self._hint.set()
        if self._observer.is_alive():
            self._observer.stop()
            self._observer.join(timeout_s)
        self._thread.end(timeout_s)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._hint.clear()
            wait_s = self._look()
            self._stopping.wait(_REST_FACTOR * self._looked_s)
            if self._hint.wait(wait_s):
                self._stopping.wait(_HINTS_PILE_UP_S)

    def _look(self) -> float:
        """Take what is whole; return after how many seconds to look again."""
        began = time.thread_time()
        try:
            view = self._files.look(time.monotonic())
        except OSError as error:
            self._report(self._folder, f"the drop folder cannot be read ({error.strerror}); it is tried again")
            return self._settings.poll_s
        finally:
            self._looked_s = time.thread_time() - began
        whole = dict(view.whole)
        self._left_alone = {path: known for path, known in self._left_alone.items() if whole.get(path) == known}
        self._troubles = {path: text for path, text in self._troubles.items() if path in whole}
        took = False
        for path, signature in view.whole:
            if self._stopping.is_set():
                break
            if path in self._left_alone:
                continue
            try:
                took = self._take(path, signature) or took
            except SpoolFull as error:
                self._report(path, f"nothing is taken from the drop folder: {error}")
                return self._settings.poll_s
        waits = [self._settings.poll_s, view.wait_s, self._sub_folders.see_to(view, time.monotonic())]
        # After files were taken, at once: their sub-folder may be empty now.
        return 0.0 if took else min(wait for wait in waits if wait is not None)

    def _take(self, path: Path, signature: Signature) -> bool:
        """Take one whole file, or put it on the shelf, and say so; or leave it for the next look."""
        try:
            # Not to be led elsewhere by a link, nor to hang on a pipe, that has taken the file's place.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return False  # somebody took it away, as they may
        except OSError as error:
            if error.errno != errno.ELOOP:
                self._report(path, f"a file in the drop folder cannot be read ({error.strerror}); it is tried again")
            return False
        try:
            return self._take_open(path, descriptor, signature)
        except SyncFailed:
            raise
        except OSError as error:
            self._report(path, f"a file in the drop folder cannot be taken ({error.strerror}); it is tried again")
            return False
        finally:
            os.close(descriptor)

    def _take_open(self, path: Path, descriptor: int, signature: Signature) -> bool:
        if Signature.of(os.fstat(descriptor)) != signature:
            return False
        name = path.relative_to(self._folder).as_posix()
        received_at = time.time()
        try:
            if is_archive(os.pread(descriptor, 132, 0)):
                self._take_archive(path, name, descriptor, received_at)
            else:
                acceptance = self._take_instance(descriptor, signature, received_at)
                if acceptance is None:
                    return False
                self._sub_folders.taken(path, acceptance)
        except RejectedInput as refusal:
            self._sub_folders.taken(path, None)
            if refusal.reason != "dicomdir":
                return self._put_away(path, signature, partial(self._keep, path, name, refusal, received_at))
            _log.info("a DICOMDIR is removed from the drop folder: an index, without images")
        return self._put_away(path, signature, path.unlink)

    def _take_instance(self, descriptor: int, signature: Signature, received_at: float) -> Acceptance | None:
        """Take an open file that is no archive; ``None`` when it was changed meanwhile."""
        self._scan_early(descriptor)
        self._store.spool.require_room(signature.size)
        incoming = self._store.spool.incoming.new(SOURCE)
        try:
            _copy(descriptor, incoming)
            if Signature.of(os.fstat(descriptor)) != signature:
                return None
            return self._store.accept(incoming, received_at=received_at)
        finally:
            incoming.close()

    def _take_archive(self, path: Path, name: str, descriptor: int, received_at: float) -> None:
        """Take the members of an archive one by one; when it turns out to be damaged, those before stay taken."""
        shares = SeriesShares()
        with os.fdopen(os.dup(descriptor), "rb") as stream:
            try:
                archive = Archive(
                    stream,
                    max_bytes=self._settings.max_archive_bytes,
                    max_member_bytes=self._store.max_instance_bytes,
                )
                for info in archive.members:
                    self._store.spool.require_room(info.file_size)
                    incoming = self._store.spool.incoming.new(SOURCE)
                    try:
                        archive.unpack(info, incoming.write)
                        acceptance = self._take_member(incoming, f"{name}/{info.filename}", received_at)
                    finally:
                        incoming.close()
                    self._sub_folders.taken(path, acceptance)
                    if acceptance is not None:
                        shares.add(acceptance)
            except RejectedInput as refusal:
                self._store.count_refusal(SOURCE, refusal)
                raise
        _log.info("an archive with %d file(s) was taken from the drop folder", len(archive.members))
        self._assembler.settle(shares.whole(), time.time(), "archive complete")

    def _take_member(self, incoming: Incoming, name: str, received_at: float) -> Acceptance | None:
        """Take one unpacked file; ``None`` when it was put on the shelf."""
        try:
            if is_archive(os.pread(incoming.descriptor, 132, 0)):
                refusal = RejectedInput(
                    "nested-archive", "the archive holds another archive", mend="Unpack it, then drop its files"
                )
                self._store.count_refusal(SOURCE, refusal)
                raise refusal
            self._scan_early(incoming.descriptor)
            return self._store.accept(incoming, received_at=received_at)
        except RejectedInput as refusal:
            if refusal.reason != "dicomdir":
                self._keep(incoming.path, name, refusal, received_at)
            return None

    def _scan_early(self, descriptor: int) -> None:
        """Refuse what is not DICOM before it is copied: whatever else is dropped may be large."""
        try:
            scan(descriptor, max_bytes=self._store.max_instance_bytes)
        except RejectedInput as refusal:
            if refusal.reason != "dicomdir":
                self._store.count_refusal(SOURCE, refusal)
            raise

    def _keep(self, path: Path, name: str, refusal: RejectedInput, received_at: float) -> None:
        identifier = self._shelf.keep(path, name, refusal, source=SOURCE, received_at=received_at)
        _log.warning("a file from the drop folder is kept as rejected/%s: %s", identifier, refusal.reason)

    def _put_away(self, path: Path, signature: Signature, put_away: Callable[[], object]) -> bool:
        """Remove a file that is done with, unless it is another by now; leave it alone when that is not allowed."""
        try:
            if Signature.of(path.lstat()) == signature:
                put_away()
        except FileNotFoundError:
            pass  # somebody else removed it
        except SyncFailed:
            raise
        except OSError as error:
            self._left_alone[path] = signature
            self._report(path, f"a file was taken, but cannot be removed from the drop folder ({error.strerror})")
        return True

    def _report(self, path: Path, text: str) -> None:
        """Log a trouble with a path once, not at each look; its name may be a patient's and is left out."""
        if self._troubles.get(path) != text:
            self._troubles[path] = text
            _log.warning("%s", text)


class _Hints(FileSystemEventHandler):
    """Wakes the thread."""

    def __init__(self, hint: threading.Event) -> None:
        self._hint = hint

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Something was made, written or renamed."""
        self._hint.set()


def _copy(descriptor: int, target: Incoming) -> None:
    """Copy an open file from its start; ``InstanceStore`` makes the copy durable."""
    offset = 0
    while block := os.pread(descriptor, _BLOCK_BYTES, offset):
        target.write(block)
        offset += len(block)
