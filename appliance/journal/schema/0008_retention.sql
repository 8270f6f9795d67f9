-- The journal, version 8: what was deleted, why, and which files still have to follow.

-- The audit: one row for each series, or file that was kept apart, that was deleted. It identifies nobody: who has a
-- Study Instance UID can ask for its hash.
CREATE TABLE deletion (
    deletion_id       INTEGER PRIMARY KEY AUTOINCREMENT,
    actor             TEXT NOT NULL,                 -- who deleted: retention
    reason            TEXT NOT NULL,                 -- age, space
    what              TEXT NOT NULL,                 -- series, rejected
    row_id            INTEGER NOT NULL,              -- of the series or rejection
    study             TEXT,                          -- SHA-256 of the Study Instance UID, in hexadecimal digits
    study_gone        INTEGER NOT NULL,              -- 1: it was the last series of its study
    instances         INTEGER NOT NULL,
    results           INTEGER NOT NULL,
    bytes             INTEGER NOT NULL,
    first_received_at REAL NOT NULL,
    last_received_at  REAL NOT NULL,
    deleted_at        REAL NOT NULL
) STRICT;
CREATE TRIGGER deletion_stays BEFORE DELETE ON deletion BEGIN
    SELECT RAISE(ABORT, 'what was deleted stays on record');
END;
CREATE TRIGGER deletion_as_it_was BEFORE UPDATE ON deletion BEGIN
    SELECT RAISE(ABORT, 'what was deleted stays on record as it was');
END;

-- Files and folders of deleted rows that may be there still.
CREATE TABLE tombstone (
    path        TEXT PRIMARY KEY,
    deletion_id INTEGER NOT NULL REFERENCES deletion
) STRICT;

CREATE TABLE deletion_total (
    reason    TEXT PRIMARY KEY,
    studies   INTEGER NOT NULL,
    instances INTEGER NOT NULL,
    bytes     INTEGER NOT NULL
) STRICT;
INSERT INTO deletion_total (reason, studies, instances, bytes) VALUES ('age', 0, 0, 0), ('space', 0, 0, 0);
CREATE TRIGGER deletion_counted AFTER INSERT ON deletion BEGIN
    UPDATE deletion_total SET studies = studies + NEW.study_gone, instances = instances + NEW.instances,
        bytes = bytes + NEW.bytes WHERE reason = NEW.reason;
END;

-- Without these the check of a foreign key reads the whole table for each instance that goes.
CREATE INDEX assessment_instance ON assessment (instance_id) WHERE instance_id IS NOT NULL;
CREATE INDEX job_instance ON job (instance_id) WHERE instance_id IS NOT NULL;

-- A row that goes is no longer counted, and takes its events along.
CREATE TRIGGER series_gone AFTER DELETE ON series BEGIN
    DELETE FROM event WHERE machine = 'series' AND row_id = OLD.series_id;
    UPDATE tally SET rows = rows - 1 WHERE machine = 'series' AND state = OLD.state;
END;
CREATE TRIGGER job_gone AFTER DELETE ON job BEGIN
    DELETE FROM event WHERE machine = 'job' AND row_id = OLD.job_id;
    UPDATE tally SET rows = rows - 1
        WHERE machine = iif(OLD.shadow, 'shadow', 'job') AND state = OLD.state;
END;
CREATE TRIGGER delivery_gone AFTER DELETE ON delivery BEGIN
    DELETE FROM event WHERE machine = 'delivery' AND row_id = OLD.delivery_id;
    UPDATE tally SET rows = rows - 1 WHERE machine = 'delivery' AND state = OLD.state;
END;
