"""Journals as each released version of the schema left them, written by SQL alone: no code of today takes part."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.unit.journal.makers import SCRIPTS

# Four series: one judged and delivered, one at work, one that failed, one that is being received; an instance with
# other content under its UID; a file that could not be taken in. In the order in which the appliance writes.
_ROWS = """
INSERT INTO study (study_id, study_instance_uid, created_at) VALUES (1, '1.1', 100), (2, '1.2', 200);
INSERT INTO series (series_id, study_id, series_instance_uid, attributes, image_count, first_received_at,
                    last_received_at, settle_at, sign) VALUES
    (1, 1, '1.1.1', '{"Modality": "MR"}', 2, 100, 101, 102, 'association released'),
    (2, 1, '1.1.2', '{"Modality": "MR"}', 1, 110, 110, 111, 'association released'),
    (3, 2, '1.2.1', '{"Modality": "CR"}', 1, 200, 200, 201, 'stable age'),
    (4, 2, '1.2.2', '{"Modality": "CT"}', 1, 300, 300, 330, 'stable age');
INSERT INTO instance (instance_id, series_id, sop_instance_uid, sop_class_uid, transfer_syntax_uid, frames, revision,
                      path, bytes, sha256, source, received_at) VALUES
    (1, 1, '1.1.1.1', '1.2.840.10008.5.1.4.1.1.4', '1.2.840.10008.1.2.1', 1, 1,
     'instances/1.1/1.1.1/1.1.1.1.dcm', 1000, 'a1', 'dicom', 100),
    (2, 1, '1.1.1.2', '1.2.840.10008.5.1.4.1.1.4', '1.2.840.10008.1.2.1', 1, 1,
     'instances/1.1/1.1.1/1.1.1.2.dcm', 1000, 'a2', 'dicom', 101),
    (3, 2, '1.1.2.1', '1.2.840.10008.5.1.4.1.1.4', '1.2.840.10008.1.2.1', 1, 1,
     'instances/1.1/1.1.2/1.1.2.1.dcm', 1000, 'a3', 'dropfolder', 110),
    (4, 3, '1.2.1.1', '1.2.840.10008.5.1.4.1.1.1', '1.2.840.10008.1.2.1', 1, 1,
     'instances/1.2/1.2.1/1.2.1.1.dcm', 1000, 'a4', 'dicom', 200),
    (5, 4, '1.2.2.1', '1.2.840.10008.5.1.4.1.1.2', '1.2.840.10008.1.2.1', 1, 1,
     'instances/1.2/1.2.2/1.2.2.1.dcm', 1000, 'a5', 'dicom', 300);
INSERT INTO conflict VALUES (1, 'b1', 'conflicts/1.1.1.1/b1.dcm', 'dicom', 150);
INSERT INTO rejection (reason, message, path, source, received_at)
    VALUES ('not-dicom', 'no DICOM', 'rejected/ab/ab.bin', 'dropfolder', 160);
UPDATE series SET state = 'complete', completed_at = 102 WHERE series_id IN (1, 2, 3);
INSERT INTO assessment (series_id, instance_id, revision, model, model_version, refusal, assessed_at) VALUES
    (1, NULL, 1, 'brain', '1.0.0', NULL, 102), (1, NULL, 1, 'lung', '1.0.0', 'Modality is MR', 102),
    (2, NULL, 1, 'brain', '1.0.0', NULL, 112), (3, 4, 1, 'lung', '1.0.0', NULL, 200);
INSERT INTO job (job_id, series_id, instance_id, revision, model, model_version, rank, available_at, first_received_at,
                 last_received_at, created_at) VALUES
    (1, 1, NULL, 1, 'brain', '1.0.0', 102, 102, 100, 101, 102),
    (2, 2, NULL, 1, 'brain', '1.0.0', 112, 112, 110, 110, 112),
    (3, 3, 4, 1, 'lung', '1.0.0', 200, 200, 200, 200, 200),
    (4, 3, NULL, 1, 'lung', '1.0.0', 205, 205, 200, 200, 205);
UPDATE job SET state = 'running', owner = 'worker-0', lease_until = 160, claimed_at = 103, attempts = 1
    WHERE job_id IN (1, 2, 3);
INSERT INTO stage VALUES (1, 1, 'load', 0.5), (1, 1, 'infer', 1.5);
UPDATE job SET state = 'succeeded', owner = NULL, lease_until = NULL, finished_at = 105, result = '{"findings": []}'
    WHERE job_id = 1;
UPDATE job SET state = 'failed', owner = NULL, lease_until = NULL, finished_at = 210, reason = 'crash', message = 'why'
    WHERE job_id = 3;
INSERT INTO result (result_id, job_id, kind, sop_class_uid, sop_instance_uid, series_instance_uid, transfer_syntax_uid,
                    path, bytes, sha256) VALUES
    (1, 1, 'sr', '1.2.840.10008.5.1.4.1.1.88.34', '9.1', '9', '1.2.840.10008.1.2.1', 'results/1/1/sr.dcm', 2000, 'c1'),
    (2, 1, 'seg', '1.2.840.10008.5.1.4.1.1.66.4', '9.2', '9', '1.2.840.10008.1.2.1', 'results/1/1/seg.dcm', 2000, 'c2'),
    (3, 1, 'sc', '1.2.840.10008.5.1.4.1.1.7', '9.3', '9', '1.2.840.10008.1.2.1', 'results/1/1/sc.dcm', 2000, 'c3'),
    (4, 1, 'other', '1.2.840.10008.5.1.4.1.1.7', '9.4', '9', '1.2.840.10008.1.2.1', 'results/1/1/x.dcm', 2000, 'c4');
INSERT INTO delivery (delivery_id, result_id, destination, available_at, created_at) VALUES
    (1, 1, 'pacs', 105, 105), (2, 2, 'pacs', 105, 105), (3, 3, 'pacs', 105, 105), (4, 4, 'pacs', 105, 105);
UPDATE delivery SET state = 'sending', attempts = 1 WHERE delivery_id IN (1, 2, 3);
UPDATE delivery SET state = 'delivered', finished_at = 106, status = 0 WHERE delivery_id = 1;
UPDATE delivery SET state = 'failed', finished_at = 107, status = 49152, message = 'cannot understand'
    WHERE delivery_id = 3;
"""

# What later versions write besides, by the version that brought it.
_LATER = {
    3: """
INSERT INTO activation (model, change, changed_at) VALUES ('brain', 'adopted', 90);
UPDATE activation SET version = '1.0.0', precision = 'float32', change = 'adopted', changed_at = 91;
UPDATE activation SET shadow_version = '2.0.0', shadow_precision = 'float32', change = 'shadowed', changed_at = 92;
INSERT INTO assessment (series_id, instance_id, revision, model, model_version, refusal, assessed_at, shadow)
    VALUES (1, NULL, 1, 'brain', '2.0.0', NULL, 102, 1);
INSERT INTO job (job_id, series_id, revision, model, model_version, rank, available_at, first_received_at,
                 last_received_at, created_at, shadow) VALUES (5, 1, 1, 'brain', '2.0.0', 1e10, 102, 100, 101, 102, 1);
""",
    4: "INSERT INTO refused_activation VALUES ('lung', '2.0.0', 'float16', 'too far', 95);",
    5: "UPDATE series SET announced = 2 WHERE series_id = 1;",
    6: "UPDATE series SET counted = 1 WHERE series_id = 4;",
    7: """
INSERT INTO delivery (delivery_id, instance_id, destination, available_at, created_at) VALUES
    (5, 1, 'archive', 100, 100), (6, 2, 'archive', 101, 101);
UPDATE delivery SET state = 'sending', attempts = 1 WHERE delivery_id = 5;
""",
    8: """
INSERT INTO deletion (actor, reason, what, row_id, study, study_gone, instances, results, bytes, first_received_at,
                      last_received_at, deleted_at) VALUES
    ('retention', 'age', 'series', 9, 'd1', 1, 3, 1, 5000, 1, 2, 50);
INSERT INTO tombstone VALUES ('instances/1.0/1.0.1', 1);
""",
    9: """
INSERT INTO procedure_step (procedure_step_id, sop_instance_uid, data_set, created_at) VALUES (1, '7.1', x'00', 99);
UPDATE procedure_step SET state = 'completed', ended_at = 120, changes = 1 WHERE procedure_step_id = 1;
INSERT INTO expected_instance VALUES ('1.2.2.2', '1.2.2', 1);
INSERT INTO step_message (procedure_step_id, operation, data_set, available_at, created_at)
    VALUES (1, 'N-CREATE', x'00', 99, 99);
""",
    13: "INSERT INTO lost_instance VALUES (3, 400);",
    15: """
INSERT INTO commitment (commitment_id, transaction_uid, ae_title, address, judge_at, available_at, created_at)
    VALUES (1, '8.1', 'SCANNER', '192.0.2.1', 420, 420, 410);
INSERT INTO commitment_reference (commitment_id, sop_instance_uid, sop_class_uid)
    VALUES (1, '1.2.1.1', '1.2.840.10008.5.1.4.1.1.1');
""",
}


def make_old_journal(path: Path, version: int) -> None:
    """A journal as version ``version`` of the schema left it when its roles were killed at work."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")  # who is killed here is another one
        connection.execute("PRAGMA foreign_keys = ON")
        for script in SCRIPTS[:version]:
            connection.executescript(script.read_text(encoding="utf-8"))
        connection.execute(f"PRAGMA user_version = {version}")
        for first, rows in sorted({1: _ROWS, **_LATER}.items()):
            if first <= version:
                connection.executescript(rows)
