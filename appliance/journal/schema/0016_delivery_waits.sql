-- The journal, version 16: deliveries that wait too long are found among all destinations' without reading them all.

CREATE INDEX delivery_available ON delivery (available_at) WHERE state = 'queued';
