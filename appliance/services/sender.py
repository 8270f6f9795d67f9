"""The sender role: results out, each destination on its own; messages to RIS and modalities; questions to PACS."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from appliance.config.layout import StateLayout
from appliance.config.settings import Settings
from appliance.delivery.commitment_reports import CommitmentReports
from appliance.delivery.pacs_count import PacsCount
from appliance.delivery.recorder import Recorder
from appliance.delivery.ris import RisSender
from appliance.delivery.sender import Sender
from appliance.journal.journal import Journal
from appliance.observability.metrics import Metrics
from appliance.services.role import Lifecycle, Part, run_role
from appliance.spool.spool import Spool

_log = logging.getLogger(__name__)


def run_sender(settings: Settings, layout: StateLayout) -> int:
    """Run the sender; return the exit code."""

    def build(lifecycle: Lifecycle) -> Sequence[Part]:
        if not settings.destinations:
            _log.warning("no destination is set: results stay in the spool")
        journal, spool = Journal(layout.journal), Spool(layout.spool)
        metrics = Metrics.for_role("sender", layout.metrics)
        recorder = Recorder(journal, metrics, on_fatal=lifecycle.fail)
        senders = [
            Sender(
                destination,
                ae_title=settings.dicom.ae_title,
                journal=journal,
                spool=spool,
                recorder=recorder,
                metrics=metrics,
                run_dir=layout.run,
                on_fatal=lifecycle.fail,
            )
            for destination in settings.destinations
        ]
        parts: list[Part] = [recorder, *senders]
        if settings.assembly.pacs is not None:
            # Here and not in the receiver, so that nothing that a PACS does can ever hold reception up.
            parts.append(
                PacsCount(
                    settings.assembly.pacs,
                    ae_title=settings.dicom.ae_title,
                    journal=journal,
                    metrics=metrics,
                    run_folder=layout.run,
                    on_fatal=lifecycle.fail,
                )
            )
        # Whether or not requests are taken: those that were are reported.
        parts.append(
            CommitmentReports(
                settings.commitment,
                settings.dicom.peers,
                ae_title=settings.dicom.ae_title,
                journal=journal,
                metrics=metrics,
                run_folder=layout.run,
                on_fatal=lifecycle.fail,
            )
        )
        if settings.mpps.ris is not None:
            parts.append(
                RisSender(
                    settings.mpps.ris,
                    ae_title=settings.dicom.ae_title,
                    journal=journal,
                    metrics=metrics,
                    run_folder=layout.run,
                    on_fatal=lifecycle.fail,
                )
            )
        return parts

    return run_role("sender", settings, layout, build)
