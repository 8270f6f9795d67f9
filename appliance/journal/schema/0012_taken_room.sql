-- The journal, version 12: how much room was taken in each hour, so that nobody has to read all instances to know.

CREATE TABLE taken_room (
    hour  INTEGER PRIMARY KEY,                       -- since 1970
    bytes INTEGER NOT NULL                           -- of images that came, and of results that were made
) STRICT;
INSERT INTO taken_room (hour, bytes)
    SELECT CAST(at / 3600 AS INTEGER), sum(bytes) FROM
        (SELECT received_at AS at, bytes FROM instance
         UNION ALL SELECT finished_at, bytes FROM result JOIN job USING (job_id)
         UNION ALL SELECT first_received_at, bytes FROM deletion)
    GROUP BY 1;
CREATE TRIGGER instance_takes_room AFTER INSERT ON instance BEGIN
    INSERT INTO taken_room (hour, bytes) VALUES (CAST(NEW.received_at / 3600 AS INTEGER), NEW.bytes)
        ON CONFLICT DO UPDATE SET bytes = bytes + NEW.bytes;
END;
CREATE TRIGGER result_takes_room AFTER INSERT ON result BEGIN
    INSERT INTO taken_room (hour, bytes)
        SELECT CAST(IFNULL(finished_at, created_at) / 3600 AS INTEGER), NEW.bytes FROM job WHERE job_id = NEW.job_id
        ON CONFLICT DO UPDATE SET bytes = bytes + NEW.bytes;
END;
