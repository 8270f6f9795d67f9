-- The journal, version 7: received images are delivered too, to the destinations that ask for them.

-- A column cannot become optional, so the table is made anew.
CREATE TABLE delivery_anew (
    delivery_id  INTEGER PRIMARY KEY,
    result_id    INTEGER REFERENCES result,          -- either of these is what is delivered
    instance_id  INTEGER REFERENCES instance,
    destination  TEXT NOT NULL,
    state        TEXT NOT NULL DEFAULT 'queued',
    attempts     INTEGER NOT NULL DEFAULT 0,
    available_at REAL NOT NULL,
    created_at   REAL NOT NULL,
    finished_at  REAL,
    status       INTEGER,                            -- of the last C-STORE answer (PS3.4 B.2.3)
    message      TEXT,
    CHECK ((result_id IS NULL) <> (instance_id IS NULL))
) STRICT;
INSERT INTO delivery_anew (delivery_id, result_id, destination, state, attempts, available_at, created_at, finished_at,
                           status, message)
    SELECT delivery_id, result_id, destination, state, attempts, available_at, created_at, finished_at, status, message
    FROM delivery;
DROP TABLE delivery;
ALTER TABLE delivery_anew RENAME TO delivery;

CREATE UNIQUE INDEX delivery_result ON delivery (result_id, destination) WHERE result_id IS NOT NULL;
CREATE UNIQUE INDEX delivery_instance ON delivery (instance_id, destination) WHERE instance_id IS NOT NULL;
-- Two queues: a result does not wait for the thousand images that were received before it.
CREATE INDEX delivery_queued_result ON delivery (destination, available_at)
    WHERE state = 'queued' AND result_id IS NOT NULL;
CREATE INDEX delivery_queued_instance ON delivery (destination, available_at)
    WHERE state = 'queued' AND instance_id IS NOT NULL;
CREATE INDEX delivery_undone ON delivery (destination, state)
    WHERE state IN ('queued', 'sending', 'failed');
CREATE INDEX delivery_sending ON delivery (destination) WHERE state = 'sending';

CREATE TRIGGER delivery_born AFTER INSERT ON delivery BEGIN
    INSERT INTO event (machine, row_id, from_state, to_state, event, at)
        SELECT 'delivery', NEW.delivery_id, '', NEW.state, IFNULL(
            (SELECT event FROM transition WHERE machine = 'delivery' AND from_state = '' AND to_state = NEW.state),
            RAISE(ABORT, 'illegal delivery transition')), (julianday('now') - 2440587.5) * 86400.0;
    UPDATE tally SET rows = rows + 1 WHERE machine = 'delivery' AND state = NEW.state;
END;
CREATE TRIGGER delivery_moved AFTER UPDATE OF state ON delivery WHEN NEW.state <> OLD.state BEGIN
    INSERT INTO event (machine, row_id, from_state, to_state, event, at)
        SELECT 'delivery', NEW.delivery_id, OLD.state, NEW.state, IFNULL(
            (SELECT event FROM transition
             WHERE machine = 'delivery' AND from_state = OLD.state AND to_state = NEW.state),
            RAISE(ABORT, 'illegal delivery transition')), (julianday('now') - 2440587.5) * 86400.0;
    UPDATE tally SET rows = rows - 1 WHERE machine = 'delivery' AND state = OLD.state;
    UPDATE tally SET rows = rows + 1 WHERE machine = 'delivery' AND state = NEW.state;
END;
CREATE TRIGGER delivery_of_shadow BEFORE INSERT ON delivery
WHEN (SELECT shadow FROM result JOIN job USING (job_id) WHERE result_id = NEW.result_id) BEGIN
    SELECT RAISE(ABORT, 'a result of a shadow is not delivered');
END;
