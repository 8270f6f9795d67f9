-- The journal, version 3: which version of each model serves, and which one runs in its shadow.

CREATE TABLE activation (
    activation_id      INTEGER PRIMARY KEY,
    model              TEXT NOT NULL UNIQUE,
    version            TEXT,                         -- NULL: none serves
    precision          TEXT,
    previous_version   TEXT,                         -- what a rollback returns to
    previous_precision TEXT,
    shadow_version     TEXT,                         -- judges the same images; its results are never delivered
    shadow_precision   TEXT,
    change             TEXT NOT NULL,                -- what was last done: the event that a change of the row leaves
    changed_at         REAL NOT NULL,
    CHECK ((version IS NULL) = (precision IS NULL)),
    CHECK ((previous_version IS NULL) = (previous_precision IS NULL)),
    CHECK ((shadow_version IS NULL) = (shadow_precision IS NULL))
) STRICT;

-- Each change leaves a row. The newest number is the generation that roles compare with theirs: it never comes twice.
CREATE TABLE activation_event (
    event_id         INTEGER PRIMARY KEY AUTOINCREMENT,
    model            TEXT NOT NULL,
    event            TEXT NOT NULL,
    version          TEXT,
    precision        TEXT,
    shadow_version   TEXT,
    shadow_precision TEXT,
    at               REAL NOT NULL
) STRICT;

ALTER TABLE job ADD COLUMN shadow INTEGER NOT NULL DEFAULT 0;         -- 1: judged beside the active version
ALTER TABLE assessment ADD COLUMN shadow INTEGER NOT NULL DEFAULT 0;

DROP INDEX job_once;
CREATE UNIQUE INDEX job_once ON job (series_id, IFNULL(instance_id, 0), revision, model, model_version, shadow);
DROP INDEX job_failed;
CREATE INDEX job_failed ON job (job_id) WHERE state = 'failed' AND shadow = 0;
CREATE INDEX job_shadow ON job (model, job_id) WHERE shadow = 1;

-- Shadow jobs are counted apart: whatever becomes of them is no alarm, and no part of the queue that patients wait in.
INSERT INTO tally (machine, state, rows)
    SELECT 'shadow', to_state, 0 FROM transition WHERE machine = 'job' GROUP BY to_state;

DROP TRIGGER job_born;
CREATE TRIGGER job_born AFTER INSERT ON job BEGIN
    INSERT INTO event (machine, row_id, from_state, to_state, event, at)
        SELECT 'job', NEW.job_id, '', NEW.state, IFNULL(
            (SELECT event FROM transition WHERE machine = 'job' AND from_state = '' AND to_state = NEW.state),
            RAISE(ABORT, 'illegal job transition')), (julianday('now') - 2440587.5) * 86400.0;
    UPDATE tally SET rows = rows + 1
        WHERE machine = iif(NEW.shadow, 'shadow', 'job') AND state = NEW.state;
END;
DROP TRIGGER job_moved;
CREATE TRIGGER job_moved AFTER UPDATE OF state ON job WHEN NEW.state <> OLD.state BEGIN
    INSERT INTO event (machine, row_id, from_state, to_state, event, at)
        SELECT 'job', NEW.job_id, OLD.state, NEW.state, IFNULL(
            (SELECT event FROM transition
             WHERE machine = 'job' AND from_state = OLD.state AND to_state = NEW.state),
            RAISE(ABORT, 'illegal job transition')), (julianday('now') - 2440587.5) * 86400.0;
    UPDATE tally SET rows = rows - 1
        WHERE machine = iif(NEW.shadow, 'shadow', 'job') AND state = OLD.state;
    UPDATE tally SET rows = rows + 1
        WHERE machine = iif(NEW.shadow, 'shadow', 'job') AND state = NEW.state;
END;

-- A queued job is always one of the version that serves: whoever queues it may not have heard of a change yet, and a
-- job that comes back may have been claimed before one.
CREATE TRIGGER job_born_late AFTER INSERT ON job
WHEN NEW.shadow = 0 AND NEW.model_version <> (SELECT version FROM activation WHERE model = NEW.model) BEGIN
    UPDATE OR IGNORE job SET model_version = (SELECT version FROM activation WHERE model = NEW.model)
        WHERE job_id = NEW.job_id;
    UPDATE job SET state = 'superseded', reason = 'activation', finished_at = NEW.created_at,
        message = 'the version that serves now has a job for these images already'
        WHERE job_id = NEW.job_id AND model_version = NEW.model_version;
END;
CREATE TRIGGER job_queued_late AFTER UPDATE OF state ON job
WHEN NEW.state = 'queued' AND NEW.shadow = 0
     AND NEW.model_version <> (SELECT version FROM activation WHERE model = NEW.model) BEGIN
    UPDATE OR IGNORE job SET model_version = (SELECT version FROM activation WHERE model = NEW.model)
        WHERE job_id = NEW.job_id;
    UPDATE job SET state = 'superseded', reason = 'activation', finished_at = NEW.available_at,
        message = 'the version that serves now has a job for these images already'
        WHERE job_id = NEW.job_id AND model_version = NEW.model_version;
END;
CREATE TRIGGER job_born_to_no_shadow AFTER INSERT ON job
WHEN NEW.shadow = 1 AND NEW.model_version IS NOT (SELECT shadow_version FROM activation WHERE model = NEW.model) BEGIN
    UPDATE job SET state = 'superseded', reason = 'shadow-ended', finished_at = NEW.created_at,
        message = 'the version runs in the shadow no more' WHERE job_id = NEW.job_id;
END;
CREATE TRIGGER job_queued_to_no_shadow AFTER UPDATE OF state ON job
WHEN NEW.state = 'queued' AND NEW.shadow = 1
     AND NEW.model_version IS NOT (SELECT shadow_version FROM activation WHERE model = NEW.model) BEGIN
    UPDATE job SET state = 'superseded', reason = 'shadow-ended', finished_at = NEW.available_at,
        message = 'the version runs in the shadow no more' WHERE job_id = NEW.job_id;
END;
CREATE TRIGGER job_version_moved AFTER UPDATE OF model_version ON job WHEN NEW.model_version <> OLD.model_version BEGIN
    INSERT INTO event (machine, row_id, from_state, to_state, event, at)
        VALUES ('job', NEW.job_id, OLD.state, OLD.state,
                'moved from version ' || OLD.model_version || ' to ' || NEW.model_version,
                (julianday('now') - 2440587.5) * 86400.0);
END;

-- A row is born empty and then changed, so that there is one way for a version to begin to serve.
CREATE TRIGGER activation_changed AFTER UPDATE ON activation BEGIN
    INSERT INTO activation_event (model, event, version, precision, shadow_version, shadow_precision, at)
        VALUES (NEW.model, NEW.change, NEW.version, NEW.precision, NEW.shadow_version, NEW.shadow_precision,
                NEW.changed_at);
    UPDATE OR IGNORE job SET model_version = NEW.version
        WHERE model = NEW.model AND shadow = 0 AND state = 'queued' AND model_version <> NEW.version;
    UPDATE job SET state = 'superseded', reason = 'activation', finished_at = NEW.changed_at,
        message = 'the version that serves now has a job for these images already'
        WHERE model = NEW.model AND shadow = 0 AND state = 'queued' AND model_version <> NEW.version;
    UPDATE job SET state = 'failed', reason = 'deactivated', finished_at = NEW.changed_at,
        message = 'the model was deactivated before this job ran. Activate it, then: appliance requeue'
        WHERE model = NEW.model AND shadow = 0 AND state = 'queued' AND NEW.version IS NULL;
    UPDATE job SET state = 'superseded', reason = 'shadow-ended', finished_at = NEW.changed_at,
        message = 'the version runs in the shadow no more'
        WHERE model = NEW.model AND shadow = 1 AND state = 'queued' AND model_version IS NOT NEW.shadow_version;
END;

-- What a shadow makes must never reach anybody, whatever the code above this file does.
CREATE TRIGGER delivery_of_shadow BEFORE INSERT ON delivery
WHEN (SELECT shadow FROM result JOIN job USING (job_id) WHERE result_id = NEW.result_id) BEGIN
    SELECT RAISE(ABORT, 'a result of a shadow is not delivered');
END;
