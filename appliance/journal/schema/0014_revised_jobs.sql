-- The journal, version 14: a job that comes back to the queue is superseded when a late image has opened the next
-- revision of its series meanwhile, as if it had never begun: the new revision's job judges its images too.

CREATE TRIGGER job_queued_revised AFTER UPDATE OF state ON job
WHEN NEW.state = 'queued' AND NEW.instance_id IS NULL
     AND NEW.revision < (SELECT revision FROM series WHERE series_id = NEW.series_id) BEGIN
    UPDATE job SET state = 'superseded', reason = 'late-image', finished_at = NEW.available_at,
        message = 'a late image opened the next revision'
        WHERE job_id = NEW.job_id AND state = 'queued';
END;
