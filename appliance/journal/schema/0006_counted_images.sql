-- The journal, version 6: how many images a series has as the PACS said when it was asked last. 0: not more than here.

ALTER TABLE series ADD COLUMN counted INTEGER NOT NULL DEFAULT 0;
