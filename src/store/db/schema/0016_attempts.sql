-- Attempts without a foreign key: an attempt is written only where its job's row was changed
-- just before, under a guard. A server looked each job up and locked its row once more.

CREATE TABLE attempts_next (
    job          INTEGER NOT NULL,
    attempt      INTEGER NOT NULL,
    worker_id    TEXT NOT NULL,
    machine      TEXT NOT NULL,
    started_at   INTEGER NOT NULL,
    ended_at     INTEGER,
    outcome      TEXT,                        -- succeeded, a failure class, or released
    reason       TEXT NOT NULL DEFAULT '',
    artifact     TEXT,
    log_received INTEGER NOT NULL DEFAULT 0,  -- bytes as the worker counts them
    log_start    INTEGER NOT NULL DEFAULT 0,  -- where this attempt begins in the job's log
    log_carry    TEXT NOT NULL DEFAULT '',    -- an escape sequence that was cut off
    PRIMARY KEY (job, attempt)
);
INSERT INTO attempts_next (job, attempt, worker_id, machine, started_at, ended_at, outcome,
        reason, artifact, log_received, log_start, log_carry)
    SELECT job, attempt, worker_id, machine, started_at, ended_at, outcome,
        reason, artifact, log_received, log_start, log_carry FROM attempts;
DROP TABLE attempts;
ALTER TABLE attempts_next RENAME TO attempts;
