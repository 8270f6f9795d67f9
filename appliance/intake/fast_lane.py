"""The fast lane: C-STORE requests straight from the socket to the file, past the library's state machine.

pynetdicom takes about 4 ms for a CT slice, most of it in polling loops, queues between its two threads, and copies;
a slice is received, durable and answered in a third of that. The library stays the node: it negotiates, and serves
everything else. It asks its socket again and again whether there is something to read; where the answer would be yes,
and what there is to read is a C-STORE request, the lane serves that first, on the library's own reader thread, which
would have read it. Whatever the lane does not know is left untouched to the library.

What it relies on in the library: ``DULServiceProvider`` asks ``socket.ready``, then calls ``socket.recv``; the name of
the state in which data are transferred (PS3.8 table 9-10, Sta6); its queues, which are empty when it has nothing to do.
"""

from __future__ import annotations

import logging
import math
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

from appliance.intake.associate_request import trouble_with
from appliance.intake.incoming_file import IncomingFile
from appliance.intake.peer_stream import MAX_PDU_BYTES, EndOfStream, PeerStream
from appliance.intake.store_messages import StoreRequest, encode_store_response, parse_store_request

_log = logging.getLogger(__name__)

_ASSOCIATE_RQ: Final = 1
_P_DATA: Final = 4
_MAX_COMMAND_BYTES: Final = 4096
_PATIENCE_S: Final = 0.01
"""How long the library's reader thread is kept waiting for a next request, once requests have come."""
_CALM_S: Final = 1.0
_CALM_LOOK_S: Final = 0.05
"""An association on which nothing has come for ``_CALM_S`` is looked at this often, instead of a thousand times a
second: a few dozen that are held open would take a whole core. What comes wakes it at once."""
_PDU_HEAD_BYTES: Final = 6
_LOOK_UP_S: Final = 0.1
"""How often the lane looks, while a peer pauses within a data set, whether the library wants to end the association."""
_LEAST_PDU_BYTES: Final = 1024
"""A peer that takes less than this at once is left to the library, which can split an answer."""

Open = Callable[[int, StoreRequest], IncomingFile | None]
"""Called with the context and the request when its data set begins; ``None`` when the association must not go on."""
Overrun = Callable[[IncomingFile], bool]
"""Called after each piece: whether the association must not go on."""
Take = Callable[[int, StoreRequest, IncomingFile, float], tuple[int, str]]
"""Called with the time at which the last byte came; returns the status and a comment."""


@dataclass(frozen=True, slots=True)
class Storing:
    """What becomes of a data set."""

    open: Open
    overrun: Overrun
    take: Take


class _Invalid(Exception):
    """The peer breaks the protocol."""


class _Interrupted(Exception):
    """The library has something to do before more comes: its network timeout is over, or the node stops."""


class LaneSocket:
    """Stands in for the library's socket, whose other methods and attributes it has.

    Parameters
    ----------
    wrapped
        The library's own.
    storing
        Told of each data set.

    Attributes
    ----------
    idle
        Set unless the lane is at work, so that the library's other thread need not look again and again.
    """

    def __init__(
        self, wrapped: AssociationSocket, association: Association, stream: PeerStream, storing: Storing
    ) -> None:
        self._wrapped = wrapped
        self._association = association
        self._stream = stream
        self._storing = storing
        self._patience_s = 0.0
        self._broken = False
        self._kind = 0
        self.idle = threading.Event()
        self.idle.set()
        self._stirred = threading.Event()
        self._stirred_at = time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    @property
    def ready(self) -> bool:
        """Whether there is something for the library to read; what is not for it is served before."""
        if self._broken:
            self._stream.drain()
            return False
        if self._free():
            self._stream.until = math.inf  # it is negotiated
            return self._serve()
        if self._wrapped.socket is None:
            return False
        provider = self._association.dul
        if provider.state_machine.current_state == "Sta2" and provider.event_queue.empty():
            return self._stirs(self._stream.wait(_CALM_LOOK_S))  # the request is all that can come
        return self._stirs(self._stream.buffered > 0 or self._wrapped.ready)

    def recv(self, nr_bytes: int) -> bytearray:
        """Return what the library asks for, see ``PeerStream.recv``; an association request is looked at before."""
        received = self._stream.recv(nr_bytes)
        if nr_bytes == _PDU_HEAD_BYTES:
            self._kind = received[0] if received else 0
        elif self._kind == _ASSOCIATE_RQ:
            trouble = trouble_with(bytes(received))
            if trouble is not None:
                _log.warning(
                    "refused an association from %s: found %s; the sender has to be mended",
                    self._association.requestor.address,
                    trouble,
                )
                raise ConnectionAbortedError("an association request that cannot be read")
        return received

    def rest(self) -> None:
        """Wait a moment if nothing has come for a while: for the thread that would look again and again."""
        if self._is_calm() and self._stirred.wait(_CALM_LOOK_S):
            self._stirred.clear()

    def _is_calm(self) -> bool:
        return time.monotonic() - self._stirred_at > _CALM_S

    def _stirs(self, something: bool) -> bool:
        """Note whether something has come."""
        if something:
            self._stirred_at = time.monotonic()
            self._stirred.set()
        return something

    def close(self) -> None:
        """Close the connection."""
        self._wrapped.close()

    def _free(self) -> bool:
        """Whether the library is in the middle of nothing."""
        association, provider = self._association, self._association.dul
        return (
            self._wrapped.socket is not None
            and provider.state_machine.current_state == "Sta6"
            and provider.to_provider_queue.empty()
            and provider.event_queue.empty()
            and association.dimse.message is None
            and association.dimse.msg_queue.empty()
            and (association.requestor.maximum_length or MAX_PDU_BYTES) >= _LEAST_PDU_BYTES
            and not provider._kill_thread
        )

    def _serve(self) -> bool:
        """Serve requests until something else has come, or nothing has; return whether there is something to read."""
        events = self._association.dul.event_queue
        try:
            while self._stirs(self._stream.wait(_CALM_LOOK_S if self._is_calm() else self._patience_s)):
                self._stream.begin_pdu()
                request = self._next_request()
                if request is None:
                    self._patience_s = 0.0  # the library has to answer soon
                    return True
                self.idle.clear()
                if not self._store(*request):
                    return True
                self._patience_s = _PATIENCE_S
                if not self._free():
                    break
        except EndOfStream:
            return True  # the library finds the same
        except OSError:
            events.put("Evt17")  # transport connection closed
        except _Interrupted:
            pass
        except _Invalid as error:
            _log.debug("a peer's message cannot be read: %s", error)
            self._broken = True  # where the next PDU would begin is not known
            events.put("Evt19")  # unrecognised or invalid PDU: A-P-ABORT (PS3.8 table 9-10)
        finally:
            self.idle.set()
        return False

    def _next_request(self) -> tuple[int, int, StoreRequest] | None:
        """Look at what comes next; if it is a usual C-STORE request, take it.

        Returns
        -------
        Bytes left in its PDU, its context, and the request; ``None`` for anything else, of which nothing is taken.
        """
        stream = self._stream
        kind, _, length = struct.unpack(">BBI", stream.peek(6))
        if kind != _P_DATA or not 6 < length <= MAX_PDU_BYTES:
            return None
        size, context_id, control = struct.unpack(">IBB", stream.peek(12)[6:])
        if control & 3 != 3 or not 2 < size <= min(length - 4, _MAX_COMMAND_BYTES):
            return None
        request = parse_store_request(bytes(stream.peek(10 + size)[12:]))
        if request is None:
            return None
        stream.skip(10 + size)
        return length - 4 - size, context_id, request

    def _store(self, left: int, context_id: int, request: StoreRequest) -> bool:
        """Receive a data set, have it taken in, answer; ``False`` when something else came in its middle."""
        incoming = self._storing.open(context_id, request)
        if incoming is None:
            raise _Invalid("a request in a context that was not accepted")
        try:
            remains = self._receive(left, context_id, incoming)
            if remains is None:
                return False
            received_at = time.time()
            status, comment = self._storing.take(context_id, request, incoming, received_at)
        finally:
            incoming.discard()
        self._stream.send(encode_store_response(context_id, request, status, comment))
        if remains:
            # The library would have split this PDU as well.
            self._stream.give_back(struct.pack(">BBI", _P_DATA, 0, remains))
        return True

    def _receive(self, left: int, context_id: int, incoming: IncomingFile) -> int | None:
        """Write a data set to its file; return what is left of its last PDU, ``None`` when no P-DATA came."""
        stream, restart = self._stream, self._association.dul._idle_timer.restart
        while True:
            if not left:
                self._wait_for_pdu()
                stream.begin_pdu()
                kind, _, left = struct.unpack(">BBI", stream.peek(6))
                if kind != _P_DATA:
                    return None
                if not 6 <= left <= MAX_PDU_BYTES:
                    raise _Invalid("a P-DATA PDU of an impossible length")
                stream.skip(6)
                restart()
            if left < 6:
                raise _Invalid("a PDU that ends within the head of a value")
            size, context, control = struct.unpack(">IBB", stream.peek(6))
            if not 2 <= size <= left - 4 or context != context_id or control & 1:
                raise _Invalid("a value that is no fragment of the data set")
            stream.skip(6)
            for piece in stream.pieces(size - 2):
                incoming.write(piece)
            if self._storing.overrun(incoming):
                raise _Invalid("a data set that is larger than what is taken")
            left -= 4 + size
            if control & 2:
                restart()
                return left

    def _wait_for_pdu(self) -> None:
        provider = self._association.dul
        while not self._stream.wait(_LOOK_UP_S):
            if provider._kill_thread or not provider.to_provider_queue.empty():
                raise _Interrupted
