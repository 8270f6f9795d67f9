-- The journal, version 13: images whose files are gone from the spool, until they are sent again.

CREATE TABLE lost_instance (
    instance_id INTEGER PRIMARY KEY REFERENCES instance ON DELETE CASCADE,
    found_at    REAL NOT NULL
) STRICT;
