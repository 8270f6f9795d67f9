"""A journal that is full: a long history, and much that waits. Written by SQL, past no trigger and no constraint."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from appliance.journal.journal import Journal

MODEL = "brain"
"""The model that all jobs are of; ``lung`` refused every image."""
DESTINATION = "pacs"

_ROOT = "1.2.826.0.1.3680043.8.498"
_WAITING_IMAGES = 2
BACK_OFF = 10
"""Of the jobs and deliveries that wait, the oldest, one of so many, have failed before and are tried again later."""

_FILL = (
    """CREATE TEMP TABLE filling AS
    WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < :series)
    SELECT n AS id, CASE WHEN n <= :history THEN 'done' WHEN n <= :history + :waiting THEN 'undelivered'
        WHEN n <= :history + 2 * :waiting THEN 'queued' ELSE 'open' END AS kind,
        iif(n <= :history, :images, :few) AS images, :now - :series + n - 10.0 AS at,
        iif((n - :history) % :waiting < :waiting / :back_off, :now + 3600.0, NULL) AS postponed
    FROM number""",
    "INSERT INTO study (study_id, study_instance_uid, created_at) SELECT id, :root || '.1.' || id, at FROM filling",
    "INSERT INTO series (series_id, study_id, series_instance_uid, attributes, image_count, first_received_at,"
    " last_received_at, settle_at, sign) SELECT id, id, :root || '.2.' || id,"
    """ '{"Modality": "CT", "BodyPartExamined": "HEAD", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}',"""
    " images, at, at, :now + 600.0 + id / 1000.0, 'stable age' FROM filling",
    """INSERT INTO instance (series_id, sop_instance_uid, sop_class_uid, transfer_syntax_uid, frames, revision, path,
        bytes, sha256, source, received_at)
    WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < max(:images, :few))
    SELECT id, :root || '.3.' || id || '.' || n, '1.2.840.10008.5.1.4.1.1.2', '1.2.840.10008.1.2.1', 1, 1,
        'instances/' || :root || '.1.' || id || '/' || :root || '.2.' || id || '/' || :root || '.3.' || id || '.' || n
            || '.dcm', 527000, lower(hex(randomblob(32))), 'dicom', at
    FROM filling CROSS JOIN number WHERE n <= images""",
    # A model of single images is asked about each, whatever it is.
    "INSERT INTO assessment (series_id, instance_id, revision, model, model_version, refusal, assessed_at)"
    " SELECT series_id, instance_id, 1, 'lung', '1.0.0', 'Modality is CT, wants CR or DX', received_at FROM instance",
    "UPDATE series SET state = 'complete', completed_at = last_received_at + 1"
    " WHERE series_id IN (SELECT id FROM filling WHERE kind <> 'open')",
    "INSERT INTO assessment (series_id, revision, model, model_version, assessed_at)"
    " SELECT id, 1, :model, '1.0.0', at + 1 FROM filling WHERE kind <> 'open'",
    "INSERT INTO job (job_id, series_id, revision, model, model_version, rank, available_at, first_received_at,"
    " last_received_at, created_at) SELECT id, id, 1, :model, '1.0.0', at + 1,"
    " iif(kind = 'queued', IFNULL(postponed, at + 1), at + 1), at, at, at + 1 FROM filling WHERE kind <> 'open'",
    "UPDATE job SET state = 'running', owner = 'worker-0', claimed_at = created_at, lease_until = created_at,"
    " attempts = 1 WHERE job_id IN (SELECT id FROM filling WHERE kind IN ('done', 'undelivered'))",
    "UPDATE job SET state = 'succeeded', owner = NULL, lease_until = NULL, finished_at = created_at + 1, result = '{}'"
    " WHERE state = 'running'",
    "INSERT INTO stage (job_id, attempt, stage, seconds) SELECT job_id, 1, value, 0.1 FROM job"
    " CROSS JOIN json_each('[\"load\", \"infer\", \"write\"]') WHERE state = 'succeeded'",
    "INSERT INTO result (job_id, kind, sop_class_uid, sop_instance_uid, series_instance_uid, transfer_syntax_uid, path,"
    " bytes, sha256) SELECT job_id, value, '1.2.840.10008.5.1.4.1.1.88.34', :root || '.4.' || job_id || '.' || key,"
    " :root || '.5.' || job_id || '.' || key, '1.2.840.10008.1.2.1', 'results/' || job_id || '/1/' || value || '.dcm',"
    " 2000, lower(hex(randomblob(32))) FROM job CROSS JOIN json_each('[\"sr\", \"seg\"]') WHERE state = 'succeeded'",
    "INSERT INTO delivery (delivery_id, result_id, destination, available_at, created_at, attempts, message)"
    " SELECT result_id, result_id, :destination, IFNULL(postponed, at + 2), at + 2, postponed IS NOT NULL,"
    " iif(postponed IS NOT NULL, 'refused: out of resources (0xA700)', NULL) FROM result JOIN filling ON id = job_id",
    "UPDATE delivery SET state = 'sending', attempts = attempts + 1 WHERE result_id IN"
    " (SELECT result_id FROM result JOIN filling ON id = job_id WHERE filling.kind = 'done')",
    "UPDATE delivery SET state = 'delivered', finished_at = created_at, status = 0 WHERE state = 'sending'",
    "INSERT INTO rejection (reason, message, path, source, received_at) SELECT 'not-dicom', 'not a DICOM file',"
    " 'rejected/' || id, 'dropfolder', at FROM filling WHERE id <= :waiting",
    "INSERT INTO conflict (instance_id, sha256, path, source, received_at) SELECT instance_id, 'other', 'conflicts/'"
    " || sop_instance_uid, 'dicom', received_at FROM instance WHERE instance_id <= :waiting",
    "DROP TABLE filling",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Filling:
    """What a journal is filled with.

    Attributes
    ----------
    history
        Series that were judged and delivered long ago, each in its own study.
    images
        Images in each of those.
    waiting
        How many series are open; as many more have a queued job, and as many more two queued deliveries. There are
        as many rejections and conflicts.
    now
        When the last image came, in seconds since 1970.
    """

    history: int
    images: int
    waiting: int
    now: float

    @property
    def series(self) -> int:
        """How many series, and as many studies, there are."""
        return self.history + 3 * self.waiting

    @property
    def instances(self) -> int:
        """How many instances there are."""
        return self.history * self.images + 3 * self.waiting * _WAITING_IMAGES


def fill_journal(path: Path, filling: Filling) -> None:
    """Make the journal at ``path``, or migrate it while it is still empty, and fill it."""
    Journal(path).close()
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -500000")
        connection.execute("BEGIN IMMEDIATE")
        arguments = {
            "series": filling.series,
            "history": filling.history,
            "images": filling.images,
            "waiting": filling.waiting,
            "few": _WAITING_IMAGES,
            "back_off": BACK_OFF,
            "now": filling.now,
            "root": _ROOT,
            "model": MODEL,
            "destination": DESTINATION,
        }
        for statement in _FILL:
            connection.execute(statement, arguments)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
