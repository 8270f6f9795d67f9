-- The journal, version 4: an activation that was refused is an alarm until somebody has decided what serves.

CREATE TABLE refused_activation (
    model      TEXT PRIMARY KEY,
    version    TEXT NOT NULL,
    precision  TEXT NOT NULL,
    reason     TEXT NOT NULL,
    refused_at REAL NOT NULL
) STRICT;
