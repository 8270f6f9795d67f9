-- The journal, version 15: storage commitment (PS3.4 annex J), from the request to the report that was answered.

CREATE TABLE commitment (
    commitment_id   INTEGER PRIMARY KEY,
    transaction_uid TEXT NOT NULL,
    ae_title        TEXT NOT NULL,                   -- who asked, as it calls itself
    address         TEXT NOT NULL,                   -- and where from
    state           TEXT NOT NULL DEFAULT 'pending',
    judge_at        REAL NOT NULL,                   -- what is not here by then has failed
    attempts        INTEGER NOT NULL DEFAULT 0,      -- reports on associations of our own
    available_at    REAL NOT NULL,                   -- of the next one
    created_at      REAL NOT NULL,
    finished_at     REAL,
    status          INTEGER,                         -- of the last answer (PS3.7 section 10.1.1.1.8)
    message         TEXT,
    UNIQUE (ae_title, transaction_uid)
) STRICT;
CREATE INDEX commitment_pending ON commitment (created_at) WHERE state = 'pending';
CREATE INDEX commitment_queued ON commitment (available_at) WHERE state = 'queued';
CREATE INDEX commitment_waiting ON commitment (created_at) WHERE state = 'queued';
CREATE INDEX commitment_failed ON commitment (commitment_id) WHERE state = 'failed';
CREATE INDEX commitment_age ON commitment (created_at);

CREATE TABLE commitment_reference (
    commitment_id    INTEGER NOT NULL REFERENCES commitment ON DELETE CASCADE,
    sop_instance_uid TEXT NOT NULL,
    sop_class_uid    TEXT NOT NULL,
    failure          INTEGER,                        -- Failure Reason (0008,1197), once it is judged
    PRIMARY KEY (commitment_id, sop_instance_uid, sop_class_uid)
) STRICT, WITHOUT ROWID;
-- Retention asks who needs an instance.
CREATE INDEX commitment_reference_instance ON commitment_reference (sop_instance_uid);

INSERT INTO transition (machine, from_state, to_state, event) VALUES
    ('commitment', '',         'pending',  'asked'),
    ('commitment', 'pending',  'queued',   'judged'),
    ('commitment', 'queued',   'reported', 'reported'),
    ('commitment', 'queued',   'failed',   'failed'),
    ('commitment', 'failed',   'pending',  'again'),  -- retention may have deleted what was committed then
    ('commitment', 'reported', 'pending',  'again');
INSERT INTO tally (machine, state, rows)
    SELECT DISTINCT machine, to_state, 0 FROM transition WHERE machine = 'commitment';

CREATE TRIGGER commitment_born AFTER INSERT ON commitment BEGIN
    INSERT INTO event (machine, row_id, from_state, to_state, event, at)
        SELECT 'commitment', NEW.commitment_id, '', NEW.state, IFNULL(
            (SELECT event FROM transition WHERE machine = 'commitment' AND from_state = '' AND to_state = NEW.state),
            RAISE(ABORT, 'illegal commitment transition')), (julianday('now') - 2440587.5) * 86400.0;
    UPDATE tally SET rows = rows + 1 WHERE machine = 'commitment' AND state = NEW.state;
END;
CREATE TRIGGER commitment_moved AFTER UPDATE OF state ON commitment WHEN NEW.state <> OLD.state BEGIN
    INSERT INTO event (machine, row_id, from_state, to_state, event, at)
        SELECT 'commitment', NEW.commitment_id, OLD.state, NEW.state, IFNULL(
            (SELECT event FROM transition
             WHERE machine = 'commitment' AND from_state = OLD.state AND to_state = NEW.state),
            RAISE(ABORT, 'illegal commitment transition')), (julianday('now') - 2440587.5) * 86400.0;
    UPDATE tally SET rows = rows - 1 WHERE machine = 'commitment' AND state = OLD.state;
    UPDATE tally SET rows = rows + 1 WHERE machine = 'commitment' AND state = NEW.state;
END;
CREATE TRIGGER commitment_gone AFTER DELETE ON commitment BEGIN
    DELETE FROM event WHERE machine = 'commitment' AND row_id = OLD.commitment_id;
    UPDATE tally SET rows = rows - 1 WHERE machine = 'commitment' AND state = OLD.state;
END;
