"""The receiver role: takes images in and decides when a series is complete. It never decodes a pixel."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from appliance.config.layout import StateLayout
from appliance.config.settings import Settings
from appliance.intake.assembler import Assembler
from appliance.intake.assessor import Assessor
from appliance.intake.commitment_scp import CommitmentScp
from appliance.intake.confirmer import Confirmer
from appliance.intake.dimse_service import DimseService
from appliance.intake.dropfolder import DropFolder
from appliance.intake.forwarding import Forwarding
from appliance.intake.mpps_scp import MppsScp
from appliance.intake.shelf import RejectedShelf
from appliance.intake.storage_scp import StorageScp
from appliance.intake.store import InstanceStore
from appliance.journal.hints import HintSocket
from appliance.journal.journal import Journal
from appliance.observability.metrics import Metrics
from appliance.services.activation_watch import ActivationWatch
from appliance.services.clock_watch import ClockWatch
from appliance.services.models import ActiveModels, active_models
from appliance.services.role import Lifecycle, Part, run_role
from appliance.spool.spool import Spool

_log = logging.getLogger(__name__)


def run_receiver(settings: Settings, layout: StateLayout) -> int:
    """Run the receiver; return the exit code."""

    def build(lifecycle: Lifecycle) -> Sequence[Part]:
        metrics = Metrics.for_role("receiver", layout.metrics)
        journal = Journal(layout.journal)
        spool = Spool(layout.spool, min_free_bytes=settings.storage.min_free_bytes)
        spool.incoming.require_links()
        swept = spool.incoming.sweep()
        if swept:
            _log.warning("removed %d file(s) that were being received when an earlier life of this role ended", swept)
        models = active_models(settings, layout, journal)
        for complaint in models.complaints():
            _log.warning("%s", complaint)
        assessor = Assessor(models.manifests(shadow=False), models.unusable, metrics, models.manifests(shadow=True))
        store = InstanceStore(
            journal,
            spool,
            assessor,
            metrics,
            Forwarding(settings.destinations, layout.run),
            stable_age_s=settings.assembly.stable_age_s,
            settle_s=settings.assembly.settle_s,
            count_announced=settings.assembly.images_in_acquisition,
            max_instance_bytes=settings.dicom.max_instance_bytes,
            run_folder=layout.run,
        )
        recovered = store.recover()
        if recovered:
            _log.warning("registered %d instance(s) again that a power failure had taken from the journal", recovered)
        assembler = Assembler(journal, assessor, metrics, run_folder=layout.run, on_fatal=lifecycle.fail)
        services: list[DimseService] = []
        if settings.mpps.enabled:
            services.append(
                MppsScp(
                    journal,
                    metrics,
                    stable_age_s=settings.assembly.stable_age_s,
                    send_on=settings.mpps.ris is not None,
                    run_folder=layout.run,
                )
            )
        commitment = CommitmentScp(
            settings.commitment,
            journal=journal,
            spool=spool,
            assembler=assembler,
            metrics=metrics,
            run_folder=layout.run,
            on_fatal=lifecycle.fail,
        )
        if settings.commitment.enabled:
            services.append(commitment)
        node = StorageScp(
            settings.dicom,
            store,
            assembler,
            metrics,
            settle_s=settings.assembly.settle_s,
            sop_class_uids=assessor.sop_class_uids,
            services=services,
            on_fatal=lifecycle.fail,
        )

        def changed(models: ActiveModels) -> None:
            assessor.replace(models.manifests(shadow=False), models.unusable, models.manifests(shadow=True))
            node.want(assessor.sop_class_uids)

        watch = ActivationWatch(
            partial(active_models, settings, layout, journal),
            journal.activations.generation,
            models.generation,
            changed,
            HintSocket(layout.run, "receiver"),
            on_fatal=lifecycle.fail,
        )
        parts: list[Part] = [
            ClockWatch(journal.waits, settings, on_fatal=lifecycle.fail),
            Confirmer(store, on_fatal=lifecycle.fail),
            watch,
            assembler,
            commitment,  # whether or not requests are taken: those that were are judged
            node,
        ]
        if settings.dropfolder.enabled:
            parts.append(
                DropFolder(
                    settings.dropfolder,
                    settings.dropfolder.path or layout.dropfolder,
                    store,
                    RejectedShelf(spool, journal),
                    assembler,
                    on_fatal=lifecycle.fail,
                )
            )
        return parts

    return run_role("receiver", settings, layout, build)
