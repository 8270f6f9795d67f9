-- The journal, version 10: what is asked again and again costs the same however much waits.

-- With all that a claim looks at, so that a job that it has to pass over costs it a step in the index.
DROP INDEX job_queued;
CREATE INDEX job_queued ON job (rank, available_at, model, model_version, shadow, state) WHERE state = 'queued';
CREATE INDEX job_available ON job (available_at, model, model_version, shadow, state) WHERE state = 'queued';
CREATE INDEX job_oldest ON job (created_at) WHERE state = 'queued' AND shadow = 0;
CREATE INDEX series_oldest ON series (first_received_at) WHERE state = 'receiving';
CREATE INDEX series_quiet ON series (sign, last_received_at) WHERE state = 'receiving';
DROP INDEX delivery_undone;
CREATE INDEX delivery_undone ON delivery (destination, state, created_at)
    WHERE state IN ('queued', 'sending', 'failed');
CREATE INDEX delivery_told ON delivery (destination, state, delivery_id)
    WHERE state IN ('queued', 'sending', 'failed') AND message IS NOT NULL;

-- The tally of deliveries, for each destination.
CREATE TABLE delivery_tally (
    destination TEXT NOT NULL,
    state       TEXT NOT NULL,
    rows        INTEGER NOT NULL,
    PRIMARY KEY (destination, state)
) STRICT, WITHOUT ROWID;
INSERT INTO delivery_tally (destination, state, rows)
    SELECT destination, state, count(*) FROM delivery GROUP BY destination, state;
CREATE TRIGGER delivery_tally_born AFTER INSERT ON delivery BEGIN
    INSERT INTO delivery_tally (destination, state, rows) VALUES (NEW.destination, NEW.state, 1)
        ON CONFLICT DO UPDATE SET rows = rows + 1;
END;
CREATE TRIGGER delivery_tally_moved AFTER UPDATE OF state ON delivery WHEN NEW.state <> OLD.state BEGIN
    UPDATE delivery_tally SET rows = rows - 1 WHERE destination = OLD.destination AND state = OLD.state;
    INSERT INTO delivery_tally (destination, state, rows) VALUES (NEW.destination, NEW.state, 1)
        ON CONFLICT DO UPDATE SET rows = rows + 1;
END;
CREATE TRIGGER delivery_tally_gone AFTER DELETE ON delivery BEGIN
    UPDATE delivery_tally SET rows = rows - 1 WHERE destination = OLD.destination AND state = OLD.state;
END;
