-- The journal, version 9: Modality Performed Procedure Steps, the instances that they list, and what of them is sent on.

CREATE TABLE procedure_step (
    procedure_step_id INTEGER PRIMARY KEY,
    sop_instance_uid  TEXT NOT NULL UNIQUE,
    state             TEXT NOT NULL DEFAULT 'in progress',
    changes           INTEGER NOT NULL DEFAULT 0,    -- N-SETs that were taken
    data_set          BLOB NOT NULL,                 -- Explicit VR Little Endian, all that is known
    created_at        REAL NOT NULL,
    ended_at          REAL
) STRICT;
CREATE INDEX procedure_step_age ON procedure_step (created_at);

-- Listed by a step that has ended, and not here yet.
CREATE TABLE expected_instance (
    sop_instance_uid    TEXT PRIMARY KEY,
    series_instance_uid TEXT NOT NULL,
    procedure_step_id   INTEGER NOT NULL REFERENCES procedure_step ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX expected_instance_series ON expected_instance (series_instance_uid);
CREATE INDEX expected_instance_step ON expected_instance (procedure_step_id);

CREATE TABLE step_message (
    step_message_id        INTEGER PRIMARY KEY,
    procedure_step_id INTEGER NOT NULL REFERENCES procedure_step ON DELETE CASCADE,
    operation         TEXT NOT NULL,                 -- N-CREATE or N-SET
    data_set          BLOB NOT NULL,                 -- Explicit VR Little Endian, as it came
    state             TEXT NOT NULL DEFAULT 'queued',
    attempts          INTEGER NOT NULL DEFAULT 0,
    available_at      REAL NOT NULL,
    created_at        REAL NOT NULL,
    finished_at       REAL,
    status            INTEGER,                       -- of the last answer (PS3.4 section F.7.2)
    message           TEXT
) STRICT;
CREATE INDEX step_message_step ON step_message (procedure_step_id, step_message_id);
CREATE INDEX step_message_undone ON step_message (state, step_message_id) WHERE state IN ('queued', 'failed');

INSERT INTO transition (machine, from_state, to_state, event) VALUES
    ('procedure_step', '',            'in progress',  'created'),
    ('procedure_step', 'in progress', 'completed',    'completed'),
    ('procedure_step', 'in progress', 'discontinued', 'discontinued'),
    ('step_message',        '',            'queued',       'created'),
    ('step_message',        'queued',      'delivered',    'delivered'),
    ('step_message',        'queued',      'failed',       'failed'),
    ('step_message',        'failed',      'queued',       'requeued');
INSERT INTO tally (machine, state, rows)
    SELECT DISTINCT machine, to_state, 0 FROM transition WHERE machine IN ('procedure_step', 'step_message');

CREATE TRIGGER procedure_step_born AFTER INSERT ON procedure_step BEGIN
    INSERT INTO event (machine, row_id, from_state, to_state, event, at)
        SELECT 'procedure_step', NEW.procedure_step_id, '', NEW.state, IFNULL(
            (SELECT event FROM transition
             WHERE machine = 'procedure_step' AND from_state = '' AND to_state = NEW.state),
            RAISE(ABORT, 'illegal procedure_step transition')), (julianday('now') - 2440587.5) * 86400.0;
    UPDATE tally SET rows = rows + 1 WHERE machine = 'procedure_step' AND state = NEW.state;
END;
CREATE TRIGGER procedure_step_moved AFTER UPDATE OF state ON procedure_step WHEN NEW.state <> OLD.state BEGIN
    INSERT INTO event (machine, row_id, from_state, to_state, event, at)
        SELECT 'procedure_step', NEW.procedure_step_id, OLD.state, NEW.state, IFNULL(
            (SELECT event FROM transition
             WHERE machine = 'procedure_step' AND from_state = OLD.state AND to_state = NEW.state),
            RAISE(ABORT, 'illegal procedure_step transition')), (julianday('now') - 2440587.5) * 86400.0;
    UPDATE tally SET rows = rows - 1 WHERE machine = 'procedure_step' AND state = OLD.state;
    UPDATE tally SET rows = rows + 1 WHERE machine = 'procedure_step' AND state = NEW.state;
END;
CREATE TRIGGER procedure_step_gone AFTER DELETE ON procedure_step BEGIN
    UPDATE tally SET rows = rows - 1 WHERE machine = 'procedure_step' AND state = OLD.state;
END;
CREATE TRIGGER step_message_born AFTER INSERT ON step_message BEGIN
    INSERT INTO event (machine, row_id, from_state, to_state, event, at)
        SELECT 'step_message', NEW.step_message_id, '', NEW.state, IFNULL(
            (SELECT event FROM transition WHERE machine = 'step_message' AND from_state = '' AND to_state = NEW.state),
            RAISE(ABORT, 'illegal step_message transition')), (julianday('now') - 2440587.5) * 86400.0;
    UPDATE tally SET rows = rows + 1 WHERE machine = 'step_message' AND state = NEW.state;
END;
CREATE TRIGGER step_message_moved AFTER UPDATE OF state ON step_message WHEN NEW.state <> OLD.state BEGIN
    INSERT INTO event (machine, row_id, from_state, to_state, event, at)
        SELECT 'step_message', NEW.step_message_id, OLD.state, NEW.state, IFNULL(
            (SELECT event FROM transition
             WHERE machine = 'step_message' AND from_state = OLD.state AND to_state = NEW.state),
            RAISE(ABORT, 'illegal step_message transition')), (julianday('now') - 2440587.5) * 86400.0;
    UPDATE tally SET rows = rows - 1 WHERE machine = 'step_message' AND state = OLD.state;
    UPDATE tally SET rows = rows + 1 WHERE machine = 'step_message' AND state = NEW.state;
END;
CREATE TRIGGER step_message_gone AFTER DELETE ON step_message BEGIN
    UPDATE tally SET rows = rows - 1 WHERE machine = 'step_message' AND state = OLD.state;
END;
