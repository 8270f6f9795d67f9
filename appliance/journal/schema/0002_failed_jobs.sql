-- The journal, version 2: status names the failed jobs, however many others there are.

CREATE INDEX job_failed ON job (job_id) WHERE state = 'failed';
