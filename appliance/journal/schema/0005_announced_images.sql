-- The journal, version 5: what the images of a series say about their number. 0: nothing, or not all the same.

ALTER TABLE series ADD COLUMN announced INTEGER NOT NULL DEFAULT 0;
