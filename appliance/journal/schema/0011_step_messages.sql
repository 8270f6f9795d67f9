-- The journal, version 11: an index over two states serves no query about one of them.

DROP INDEX step_message_undone;
CREATE INDEX step_message_queued ON step_message (step_message_id) WHERE state = 'queued';
CREATE INDEX step_message_failed ON step_message (step_message_id) WHERE state = 'failed';
