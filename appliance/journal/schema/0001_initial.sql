-- The journal, version 1. Times are seconds since 1970 (UTC). Paths are relative to the spool.

CREATE TABLE study (
    study_id           INTEGER PRIMARY KEY,
    study_instance_uid TEXT NOT NULL UNIQUE,
    created_at         REAL NOT NULL
) STRICT;

CREATE TABLE series (
    series_id           INTEGER PRIMARY KEY,
    study_id            INTEGER NOT NULL REFERENCES study,
    series_instance_uid TEXT NOT NULL,
    state               TEXT NOT NULL DEFAULT 'receiving',
    revision            INTEGER NOT NULL DEFAULT 1,
    attributes          TEXT NOT NULL,               -- JSON: domain.attributes of the first instance
    image_count         INTEGER NOT NULL DEFAULT 0,  -- frames count as images
    first_received_at   REAL NOT NULL,
    last_received_at    REAL NOT NULL,
    settle_at           REAL NOT NULL,               -- when it may be called complete
    sign                TEXT NOT NULL,               -- why settle_at is what it is
    completed_at        REAL,
    UNIQUE (study_id, series_instance_uid)
) STRICT;
CREATE INDEX series_receiving ON series (settle_at) WHERE state = 'receiving';

CREATE TABLE instance (
    instance_id         INTEGER PRIMARY KEY,
    series_id           INTEGER NOT NULL REFERENCES series,
    sop_instance_uid    TEXT NOT NULL UNIQUE,
    sop_class_uid       TEXT NOT NULL,
    transfer_syntax_uid TEXT NOT NULL,
    frames              INTEGER NOT NULL,
    revision            INTEGER NOT NULL,            -- of the series, when it came
    path                TEXT NOT NULL,
    bytes               INTEGER NOT NULL,
    sha256              TEXT NOT NULL,               -- of the data set, without the file meta information
    source              TEXT NOT NULL,               -- how it came: dicom, dropfolder
    received_at         REAL NOT NULL
) STRICT;
CREATE INDEX instance_series ON instance (series_id, revision);

CREATE TABLE conflict (
    instance_id INTEGER NOT NULL REFERENCES instance,
    sha256      TEXT NOT NULL,
    path        TEXT NOT NULL,
    source      TEXT NOT NULL,
    received_at REAL NOT NULL,
    PRIMARY KEY (instance_id, sha256)
) STRICT;

CREATE TABLE rejection (
    rejection_id INTEGER PRIMARY KEY,
    reason       TEXT NOT NULL,
    message      TEXT NOT NULL,
    path         TEXT NOT NULL,
    source       TEXT NOT NULL,
    received_at  REAL NOT NULL
) STRICT;

-- What each model said about each series revision, or about an instance.
CREATE TABLE assessment (
    series_id     INTEGER NOT NULL REFERENCES series,
    instance_id   INTEGER REFERENCES instance,
    revision      INTEGER NOT NULL,
    model         TEXT NOT NULL,
    model_version TEXT NOT NULL,
    refusal       TEXT,                              -- NULL: yes
    assessed_at   REAL NOT NULL
) STRICT;
CREATE INDEX assessment_series ON assessment (series_id, revision);

CREATE TABLE job (
    job_id           INTEGER PRIMARY KEY,
    series_id        INTEGER NOT NULL REFERENCES series,
    instance_id      INTEGER REFERENCES instance,    -- NULL: the whole series
    revision         INTEGER NOT NULL,
    model            TEXT NOT NULL,
    model_version    TEXT NOT NULL,
    state            TEXT NOT NULL DEFAULT 'queued',
    priority         INTEGER NOT NULL DEFAULT 0,
    rank             REAL NOT NULL,                  -- order of claims: age less a head start for priority
    attempts         INTEGER NOT NULL DEFAULT 0,
    owner            TEXT,
    lease_until      REAL,
    available_at     REAL NOT NULL,
    first_received_at REAL NOT NULL,
    last_received_at REAL NOT NULL,                  -- last byte in
    created_at       REAL NOT NULL,                  -- complete, so ready to run
    claimed_at       REAL,
    finished_at      REAL,
    reason           TEXT,                           -- slug of the outcome when it is not success
    message          TEXT,
    result           TEXT                            -- JSON: findings and measurements
) STRICT;
CREATE UNIQUE INDEX job_once ON job (series_id, IFNULL(instance_id, 0), revision, model, model_version);
CREATE INDEX job_queued ON job (rank) WHERE state = 'queued';
CREATE INDEX job_running ON job (owner) WHERE state = 'running';

CREATE TABLE stage (
    job_id  INTEGER NOT NULL REFERENCES job,
    attempt INTEGER NOT NULL,
    stage   TEXT NOT NULL,
    seconds REAL NOT NULL,
    PRIMARY KEY (job_id, attempt, stage)
) STRICT;

CREATE TABLE result (
    result_id           INTEGER PRIMARY KEY,
    job_id              INTEGER NOT NULL REFERENCES job,
    kind                TEXT NOT NULL,
    sop_class_uid       TEXT NOT NULL,
    sop_instance_uid    TEXT NOT NULL UNIQUE,
    series_instance_uid TEXT NOT NULL,
    transfer_syntax_uid TEXT NOT NULL,
    path                TEXT NOT NULL,
    bytes               INTEGER NOT NULL,
    sha256              TEXT NOT NULL
) STRICT;
CREATE INDEX result_job ON result (job_id);

CREATE TABLE delivery (
    delivery_id  INTEGER PRIMARY KEY,
    result_id    INTEGER NOT NULL REFERENCES result,
    destination  TEXT NOT NULL,
    state        TEXT NOT NULL DEFAULT 'queued',
    attempts     INTEGER NOT NULL DEFAULT 0,
    available_at REAL NOT NULL,
    created_at   REAL NOT NULL,
    finished_at  REAL,
    status       INTEGER,                            -- of the last C-STORE answer (PS3.4 B.2.3)
    message      TEXT,
    UNIQUE (result_id, destination)
) STRICT;
CREATE INDEX delivery_queued ON delivery (destination, available_at) WHERE state = 'queued';
CREATE INDEX delivery_undone ON delivery (destination, state)
    WHERE state IN ('queued', 'sending', 'failed');
CREATE INDEX delivery_sending ON delivery (destination) WHERE state = 'sending';

-- State machines: an arrow that is not listed here is refused by a trigger, each arrow leaves an event row.
CREATE TABLE transition (
    machine    TEXT NOT NULL,
    from_state TEXT NOT NULL,                        -- '' is birth
    to_state   TEXT NOT NULL,
    event      TEXT NOT NULL,
    PRIMARY KEY (machine, from_state, to_state)
) STRICT;
INSERT INTO transition (machine, from_state, to_state, event) VALUES
    ('series',   '',           'receiving',  'opened'),
    ('series',   'receiving',  'complete',   'completed'),
    ('series',   'complete',   'receiving',  'reopened'),
    ('job',      '',           'queued',     'created'),
    ('job',      'queued',     'running',    'claimed'),
    ('job',      'queued',     'superseded', 'superseded'),
    ('job',      'queued',     'failed',     'given up'),
    ('job',      'running',    'queued',     'returned'),
    ('job',      'running',    'succeeded',  'succeeded'),
    ('job',      'running',    'unsuitable', 'found unsuitable'),
    ('job',      'running',    'failed',     'failed'),
    ('job',      'failed',     'queued',     'requeued'),
    ('job',      'unsuitable', 'queued',     'requeued'),
    ('delivery', '',           'queued',     'created'),
    ('delivery', 'queued',     'sending',    'claimed'),
    ('delivery', 'sending',    'queued',     'returned'),
    ('delivery', 'sending',    'delivered',  'delivered'),
    ('delivery', 'sending',    'failed',     'failed'),
    ('delivery', 'failed',     'queued',     'requeued');

CREATE TABLE event (
    event_id   INTEGER PRIMARY KEY,
    machine    TEXT NOT NULL,
    row_id     INTEGER NOT NULL,
    from_state TEXT NOT NULL,
    to_state   TEXT NOT NULL,
    event      TEXT NOT NULL,
    at         REAL NOT NULL
) STRICT;
CREATE INDEX event_row ON event (machine, row_id);

-- How many rows are in each state, kept by triggers so that a scrape of the metrics never counts rows.
CREATE TABLE tally (
    machine TEXT NOT NULL,
    state   TEXT NOT NULL,
    rows    INTEGER NOT NULL,
    PRIMARY KEY (machine, state)
) STRICT;
INSERT INTO tally (machine, state, rows)
    SELECT DISTINCT machine, to_state, 0 FROM transition;

CREATE TRIGGER series_born AFTER INSERT ON series BEGIN
    INSERT INTO event (machine, row_id, from_state, to_state, event, at)
        SELECT 'series', NEW.series_id, '', NEW.state, IFNULL(
            (SELECT event FROM transition WHERE machine = 'series' AND from_state = '' AND to_state = NEW.state),
            RAISE(ABORT, 'illegal series transition')), (julianday('now') - 2440587.5) * 86400.0;
    UPDATE tally SET rows = rows + 1 WHERE machine = 'series' AND state = NEW.state;
END;
CREATE TRIGGER series_moved AFTER UPDATE OF state ON series WHEN NEW.state <> OLD.state BEGIN
    INSERT INTO event (machine, row_id, from_state, to_state, event, at)
        SELECT 'series', NEW.series_id, OLD.state, NEW.state, IFNULL(
            (SELECT event FROM transition
             WHERE machine = 'series' AND from_state = OLD.state AND to_state = NEW.state),
            RAISE(ABORT, 'illegal series transition')), (julianday('now') - 2440587.5) * 86400.0;
    UPDATE tally SET rows = rows - 1 WHERE machine = 'series' AND state = OLD.state;
    UPDATE tally SET rows = rows + 1 WHERE machine = 'series' AND state = NEW.state;
END;
CREATE TRIGGER job_born AFTER INSERT ON job BEGIN
    INSERT INTO event (machine, row_id, from_state, to_state, event, at)
        SELECT 'job', NEW.job_id, '', NEW.state, IFNULL(
            (SELECT event FROM transition WHERE machine = 'job' AND from_state = '' AND to_state = NEW.state),
            RAISE(ABORT, 'illegal job transition')), (julianday('now') - 2440587.5) * 86400.0;
    UPDATE tally SET rows = rows + 1 WHERE machine = 'job' AND state = NEW.state;
END;
CREATE TRIGGER job_moved AFTER UPDATE OF state ON job WHEN NEW.state <> OLD.state BEGIN
    INSERT INTO event (machine, row_id, from_state, to_state, event, at)
        SELECT 'job', NEW.job_id, OLD.state, NEW.state, IFNULL(
            (SELECT event FROM transition
             WHERE machine = 'job' AND from_state = OLD.state AND to_state = NEW.state),
            RAISE(ABORT, 'illegal job transition')), (julianday('now') - 2440587.5) * 86400.0;
    UPDATE tally SET rows = rows - 1 WHERE machine = 'job' AND state = OLD.state;
    UPDATE tally SET rows = rows + 1 WHERE machine = 'job' AND state = NEW.state;
END;
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
