"""Real and scripted DICOM peers on loopback: dcmtk's ``storescp``, Orthanc, and a PACS that answers as it is told."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.transport import ThreadedAssociationServer

from tests.support.ports import free_port
from tests.support.waiting import wait_for

SR, SEG, SC = "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.7"

needs_dcmtk = [
    pytest.mark.peer,
    pytest.mark.skipif(shutil.which("storescp") is None, reason="dcmtk is not installed: apt install dcmtk"),
]
needs_orthanc = [
    pytest.mark.peer,
    pytest.mark.skipif(shutil.which("Orthanc") is None, reason="Orthanc is not installed: apt install orthanc"),
]


class _Program:
    """A peer in a process of its own, from construction to ``stop``."""

    def __init__(self, command: Sequence[str], port: int, log: Path) -> None:
        self.port = port
        self._log = log
        with log.open("ab") as stream:
            self._process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        try:
            wait_for(self._listens, 30, what=f"{command[0]} to listen")
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def process_id(self) -> int:
        """Of the peer, for tests that stop it in its tracks."""
        return self._process.pid

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)

    def _listens(self) -> bool:
        """Whether it does, without connecting: some peers take a bare connection for an attack."""
        if self._process.poll() is not None:
            raise AssertionError(f"it ended at once: {self._log.read_text(errors='replace')[-2000:]}")
        return any(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == self.port
            for connection in psutil.Process(self._process.pid).net_connections("tcp")
        )


class DcmtkStoreScp(_Program):
    """dcmtk's ``storescp``; what it receives lies in ``folder``, data sets as they came (``+B``).

    Parameters
    ----------
    options
        Of the program: ``+xi``, ``--abort-after``, ``--refuse``.
    """

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        port = port or free_port()
        command = ["storescp", "+B", *options, "-od", str(folder), str(port)]
        super().__init__(command, port, folder.with_name(f"{folder.name}.log"))

    def files(self) -> list[Path]:
        """What was received."""
        return sorted(self.folder.iterdir())


class Orthanc(_Program):
    """An Orthanc, empty at first, with its files below ``folder``; HTTP without a password, on loopback only.

    Parameters
    ----------
    modalities
        Name → AE title and port on this machine, for ``store_to``.
    settings
        Further settings of its configuration file.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ae_title: str = "ORTHANC",
        modalities: Mapping[str, tuple[str, int]] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.http_port, port = free_port(), free_port()
        configuration = {
            "Name": "peer",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "index"),
            "Plugins": [],
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomPort": port,
            "DicomAet": ae_title,
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "DicomModalities": {
                name: [called, "127.0.0.1", called_port] for name, (called, called_port) in (modalities or {}).items()
            },
            **(settings or {}),
        }
        file = folder / "orthanc.json"
        file.write_text(json.dumps(configuration))
        super().__init__(["Orthanc", str(file)], port, folder / "orthanc.log")

    def request(self, path: str, body: bytes | None = None) -> bytes:
        """Call its REST API: GET, or POST where there is a body."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", data=body, timeout=60) as answer:
            content: bytes = answer.read()
            return content

    def instances(self) -> list[str]:
        """Orthanc's identifiers of what it holds."""
        identifiers: list[str] = json.loads(self.request("/instances"))
        return identifiers

    def tags(self, identifier: str) -> dict[str, Any]:
        """The simplified tags of an instance, by keyword."""
        tags: dict[str, Any] = json.loads(self.request(f"/instances/{identifier}/simplified-tags"))
        return tags

    def file(self, identifier: str) -> bytes:
        """The Part 10 file of an instance."""
        return self.request(f"/instances/{identifier}/file")

    def upload(self, paths: Iterable[Path]) -> list[str]:
        """Put files in; return Orthanc's identifiers."""
        return [json.loads(self.request("/instances", path.read_bytes()))["ID"] for path in paths]

    def store_to(self, modality: str, identifiers: Sequence[str]) -> None:
        """Send instances by C-STORE to one of the modalities, and wait for the end."""
        self.request(f"/modalities/{modality}/store", json.dumps(list(identifiers)).encode())


ABORT, DISCONNECT, HANG = "abort", "disconnect", "hang"


class FakePacs:
    """A storage SCP that answers as its script says, then with 0x0000.

    Parameters
    ----------
    script
        For each object in turn: a status, ``ABORT``, ``DISCONNECT``, or ``HANG`` (no answer before ``let_go``).
    transfer_syntaxes
        For each SOP class what it takes.

    Attributes
    ----------
    received
        SOP Instance UID, transfer syntax and data set of every C-STORE request, in order, answered or not.
    associations, released
        How many it accepted, and how many of them the other side released.
    offered
        SOP class and transfer syntaxes of the contexts of the latest association.
    """

    def __init__(
        self,
        script: Sequence[int | str] = (),
        *,
        ae_title: str = "PACS",
        sop_classes: Sequence[str] = (SR, SEG, SC),
        transfer_syntaxes: Sequence[str] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
        port: int = 0,
        max_pdu_bytes: int = 16384,
    ) -> None:
        self._script = list(script)
        self._held = threading.Event()
        self.received: list[tuple[str, str, bytes]] = []
        self.associations = self.released = 0
        self.offered: list[tuple[str, tuple[str, ...]]] = []
        entity = AE(ae_title)
        entity.require_called_aet = True
        entity.maximum_pdu_size = max_pdu_bytes
        for sop_class in sop_classes:
            entity.add_supported_context(sop_class, list(transfer_syntaxes))
        server = entity.start_server(
            ("127.0.0.1", port),
            block=False,
            evt_handlers=[
                (evt.EVT_CONN_OPEN, _without_delay),
                (evt.EVT_ACCEPTED, self._accepted),
                (evt.EVT_RELEASED, self._released),
                (evt.EVT_C_STORE, self._store),
            ],
        )
        assert isinstance(server, ThreadedAssociationServer)
        self._entity, self._server = entity, server
        self.port: int = server.server_address[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def let_go(self) -> None:
        """Answer what hangs, with 0x0000, and hang no more."""
        self._held.set()

    def stop(self) -> None:
        """End it; open associations are aborted."""
        self.let_go()
        self._entity.shutdown()

    def uids(self) -> list[str]:
        """SOP Instance UIDs in the order in which they came, repeats included."""
        return [uid for uid, _, _ in self.received]

    def open_associations(self) -> int:
        """How many are open now."""
        return len(self._entity.active_associations)

    def end_associations(self) -> None:
        """Abort the open ones, as a peer does that has waited long enough."""
        for association in self._entity.active_associations:
            association.abort()

    def _answer(self, sop_instance_uid: str) -> int | str:
        return self._script.pop(0) if self._script else 0x0000

    def _released(self, event: Any) -> None:
        self.released += 1

    def _accepted(self, event: Any) -> None:
        self.associations += 1
        self.offered = [
            (str(context.abstract_syntax), tuple(map(str, context.transfer_syntax)))
            for context in event.assoc.requestor.primitive.presentation_context_definition_list
        ]

    def _store(self, event: Any) -> int:
        request = event.request
        answer = self._answer(str(request.AffectedSOPInstanceUID))
        self.received.append(
            (str(request.AffectedSOPInstanceUID), str(event.context.transfer_syntax), request.DataSet.getvalue())
        )
        if answer == ABORT:
            event.assoc.abort()
        elif answer == DISCONNECT:
            event.assoc.dul.socket.close()
        elif answer == HANG:
            self._held.wait(60)
        return answer if isinstance(answer, int) else 0x0000


def _without_delay(event: Any) -> None:
    """The answers of the library's SCP would wait for the sender's acknowledgements otherwise."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class RawAcceptor:
    """A peer of raw bytes: ``behave`` is run with each connection, in a thread, which is closed after it returns."""

    def __init__(self, behave: Callable[[socket.socket], None]) -> None:
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                self._behave(connection)
            except OSError:
                pass  # the other side had enough


def accept_association(connection: socket.socket, max_pdu_bytes: int = 16384) -> None:
    """Receive an association request on a bare connection and accept all of its contexts."""
    connection.sendall(association_acceptance(receive_pdu(connection), max_pdu_bytes))


def association_acceptance(pdu: bytes, max_pdu_bytes: int = 16384) -> bytes:
    """The A-ASSOCIATE-AC that accepts all contexts of an A-ASSOCIATE-RQ."""
    request = A_ASSOCIATE_RQ()
    request.decode(pdu)
    primitive = request.to_primitive()
    accepted = []
    for context in primitive.presentation_context_definition_list:
        context.result = 0
        accepted.append(context)
    primitive.result, primitive.result_source = 0, 1
    primitive.presentation_context_definition_results_list = accepted
    max_length = MaximumLengthNotification()
    max_length.maximum_length_received = max_pdu_bytes
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = "1.2.826.0.1.3680043.9.9999"
    primitive.user_information = [max_length, implementation]
    return bytes(A_ASSOCIATE_AC(primitive).encode())


def receive_pdu(connection: socket.socket) -> bytes:
    """Receive one whole PDU, with its head.

    Raises
    ------
    ConnectionError
        The connection ended before.
    """
    pdu = bytearray()
    wanted = 6
    while len(pdu) < wanted:
        piece = connection.recv(wanted - len(pdu))
        if not piece:
            raise ConnectionResetError("closed by the other side")
        pdu += piece
        if len(pdu) >= 6:
            wanted = 6 + int.from_bytes(pdu[2:6], "big")
    return bytes(pdu)
