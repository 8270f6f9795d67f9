"""The metrics of all roles, in one place. ``configs/README.md`` describes each of them.

Roles are processes. Each writes its numbers to memory-mapped files in one folder, named by role and not by process
id: so counters go on after a restart and no file is left behind. The console serves their sum. What can be read off
the journal or the disk is not counted here but computed at each scrape, see ``console/collector``.

No label ever identifies a patient, a study or a file.
"""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.values import MultiProcessValue

from appliance.observability.role_files import prepare_role_files

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)
"""Buckets that serve a 5 ms receipt as well as a PACS that was down for an hour."""


class Metrics:
    """The counters, gauges and histograms that roles write to.

    Made once per process, by its composition root, and handed down; a test makes its own.
    """

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.instances = Counter(
            "appliance_instances",
            "Instances that arrived, by source (dicom, dropfolder) and outcome (stored, duplicate, conflict, or the "
            "reason of a refusal)",
            ["source", "outcome"],
            registry=registry,
        )
        self.instance_bytes = Counter(
            "appliance_instance_bytes",
            "Bytes of instances that arrived, by source and outcome",
            ["source", "outcome"],
            registry=registry,
        )
        self.associations = Counter(
            "appliance_associations",
            "Associations, by outcome (accepted, rejected, released, aborted)",
            ["outcome"],
            registry=registry,
        )
        self.open_associations = Gauge(
            "appliance_open_associations",
            "Associations that are open now",
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self.store_seconds = Histogram(
            "appliance_store_seconds",
            "From the last byte of an instance to its answer: verified, durable, journaled",
            ["source"],
            buckets=SECONDS,
            registry=registry,
        )
        self.series = Counter(
            "appliance_series_completed",
            "Series that were called complete, by the sign that said so",
            ["sign"],
            registry=registry,
        )
        self.short_series = Counter(
            "appliance_series_short",
            "Series that were called complete by their stable age although more images were expected",
            registry=registry,
        )
        self.revisions = Counter(
            "appliance_series_reopened",
            "Series that a late image opened again, as their next revision, after they had been called complete",
            registry=registry,
        )
        self.late_images = Counter(
            "appliance_late_images",
            "Instances that came after their series had been called complete once",
            registry=registry,
        )
        self.procedure_steps = Counter(
            "appliance_procedure_steps",
            "Messages about Modality Performed Procedure Steps, by outcome (created, changed, completed, discontinued, "
            "refused, disk-error, error)",
            ["outcome"],
            registry=registry,
        )
        self.step_messages = Counter(
            "appliance_step_messages",
            "Attempts at sending messages about procedure steps on to the RIS, by outcome (delivered, postponed, "
            "failed)",
            ["outcome"],
            registry=registry,
        )
        self.commitments = Counter(
            "appliance_commitments",
            "Requests for storage commitment, by outcome (taken, refused, no-room, disk-error, error)",
            ["outcome"],
            registry=registry,
        )
        self.committed_instances = Counter(
            "appliance_committed_instances",
            "Instances that peers asked about in storage commitment requests, by outcome (committed, failed)",
            ["outcome"],
            registry=registry,
        )
        self.commitment_reports = Counter(
            "appliance_commitment_reports",
            "Reports of storage commitments, by outcome (reported, postponed, failed)",
            ["outcome"],
            registry=registry,
        )
        self.pacs_counts = Counter(
            "appliance_pacs_counts",
            "Questions to the PACS for the number of a series' instances, by outcome (equal, more or fewer than here, "
            "none, unreachable)",
            ["outcome"],
            registry=registry,
        )
        self.assessments = Counter(
            "appliance_assessments",
            "Answers of models to images, by model and answer (yes, no)",
            ["model", "answer"],
            registry=registry,
        )
        self.jobs = Counter(
            "appliance_jobs",
            "Jobs that ended or were returned, by model and outcome (succeeded, unsuitable, failed, returned)",
            ["model", "outcome"],
            registry=registry,
        )
        self.shadow_jobs = Counter(
            "appliance_shadow_jobs",
            "The same of versions that run in the shadow of the active one; they are not among appliance_jobs_total",
            ["model", "outcome"],
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "appliance_stage_seconds",
            "Time that a job spent in each stage (receive, settle, queue, load, infer, read_out, write) and from "
            "complete to the first network (to_infer), by model",
            ["model", "stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.deliver_seconds = Histogram(
            "appliance_deliver_seconds",
            "From an object in the outbox to its acknowledgement, by destination and kind (sr, seg, sc, image)",
            ["destination", "kind"],
            buckets=SECONDS,
            registry=registry,
        )
        self.total_seconds = Histogram(
            "appliance_total_seconds",
            "From the last byte of the images in to the result acknowledged, by model, destination and kind of result",
            ["model", "destination", "kind"],
            buckets=SECONDS,
            registry=registry,
        )
        self.deliveries = Counter(
            "appliance_deliveries",
            "Attempts at deliveries, by destination and outcome (delivered, postponed, failed)",
            ["destination", "outcome"],
            registry=registry,
        )
        self.room_days = Gauge(
            "appliance_retention_room_days",
            "Days until the disk comes to retention's target if as much arrives as in the last week; infinite without",
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self.held_studies = Gauge(
            "appliance_retention_held_studies",
            "Studies older than retention.max_age_days that stay, by what needs them still",
            ["hold"],
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self.prepared_jobs = Counter(
            "appliance_prepared_jobs",
            "Jobs of series that were taken, by model and whether all images were in memory by then (prepared, late)",
            ["model", "outcome"],
            registry=registry,
        )
        self.prepared_bytes = Gauge(
            "appliance_prepared_bytes",
            "Memory held for series whose jobs are not taken yet",
            registry=registry,
            multiprocess_mode="sum",
        )
        self.decoder_crashes = Counter(
            "appliance_decoder_crashes",
            "Times that a process that decodes compressed images ended in the middle of one",
            registry=registry,
        )
        self.device_losses = Counter(
            "appliance_device_losses",
            "Times that the GPU was lost at work: the worker ended, and its job went back to the queue, by model",
            ["model"],
            registry=registry,
        )
        self.model_device_bytes = Gauge(
            "appliance_model_device_bytes",
            "Memory of the GPU that a model holds: its engines, tensors and workspace, by model, version and backend",
            ["model", "version", "backend"],
            registry=registry,
            multiprocess_mode="sum",
        )
        self.model_ready = Gauge(
            "appliance_model_ready",
            "1 when the model is loaded and warm in a worker, 0 when it cannot run or is given up, by model, version "
            "and backend",
            ["model", "version", "backend"],
            registry=registry,
            multiprocess_mode="max",
        )
        self.model_verified = Gauge(
            "appliance_model_verified",
            "1 when the model passed its golden cases on the backend that it runs on, 0 when it failed them and does "
            "not serve, by model, version, backend and precision",
            ["model", "version", "backend", "precision"],
            registry=registry,
            multiprocess_mode="max",
        )
        self.model_dice = Gauge(
            "appliance_model_parity_dice",
            "Least Dice coefficient of any structure of any golden case against ONNX Runtime in float32",
            ["model", "version", "backend", "precision"],
            registry=registry,
            multiprocess_mode="max",
        )
        self.model_size_difference = Gauge(
            "appliance_model_parity_size_difference",
            "Largest difference of any structure's size, as a fraction, against ONNX Runtime in float32",
            ["model", "version", "backend", "precision"],
            registry=registry,
            multiprocess_mode="max",
        )

    @classmethod
    def for_role(cls, role: str, folder: Path) -> Metrics:
        """Make the metrics of a role (``receiver``, ``worker-0``), going on with its earlier counts in ``folder``.

        See ``prepare_role_files`` for what does not go on.
        """
        prepare_role_files(role, folder)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        # prometheus_client picks the storage of a value when the value is made, by this attribute of its module.
        values.ValueClass = MultiProcessValue(lambda: role)
        return cls()
