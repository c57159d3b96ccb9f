-- Apps, the build queue, artifacts, tokens, workers, events.
-- Instants are Unix milliseconds; digests and commits are lower-case hex.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE apps (
    name       TEXT PRIMARY KEY,
    spec       TEXT NOT NULL,              -- JSON of wire::v1::app::AppSpec
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);

-- The queue: FIFO by id within a priority. A requeued job keeps its id, so it
-- is at the front again.
CREATE TABLE jobs (
    id                  INTEGER PRIMARY KEY,   -- the number in b12
    app                 TEXT NOT NULL REFERENCES apps (name),
    commit_id           TEXT NOT NULL,
    recipe_digest       TEXT NOT NULL,         -- of repo, trunk and stored recipe at queueing
    status              TEXT NOT NULL CHECK (status IN ('QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED')),
    attempt             INTEGER NOT NULL,      -- fencing token; grows with each claim
    max_attempts        INTEGER NOT NULL,
    priority            INTEGER NOT NULL DEFAULT 0,
    not_before          INTEGER NOT NULL,
    worker_id           TEXT,
    lease_expires_at    INTEGER,
    last_heartbeat      INTEGER,
    cancel_requested_at INTEGER,
    failure_class       TEXT,
    failure_reason      TEXT,
    artifact            TEXT,
    queued_at           INTEGER NOT NULL,
    started_at          INTEGER,
    ended_at            INTEGER,
    actor               TEXT NOT NULL,
    subject             TEXT NOT NULL,
    allow_unmerged      INTEGER NOT NULL DEFAULT 0,
    repo                TEXT NOT NULL,         -- snapshot of the app at queueing
    trunk               TEXT NOT NULL,
    recipe              TEXT NOT NULL,         -- JSON of model::recipe::Recipe
    log_bytes           INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX jobs_queued ON jobs (priority DESC, id) WHERE status = 'QUEUED';
CREATE INDEX jobs_running ON jobs (lease_expires_at) WHERE status = 'RUNNING';
CREATE INDEX jobs_by_app ON jobs (app, id);
CREATE INDEX jobs_by_commit ON jobs (commit_id);
-- One live or succeeded job per app, commit and recipe.
CREATE UNIQUE INDEX jobs_one ON jobs (app, commit_id, recipe_digest)
    WHERE status IN ('QUEUED', 'RUNNING', 'SUCCEEDED');

CREATE TABLE attempts (
    job          INTEGER NOT NULL REFERENCES jobs (id),
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

-- The log of a job, attempt after attempt, in the order it came. `at` is the
-- reader's offset; a gap is what was dropped to keep within the limit.
CREATE TABLE job_log (
    job     INTEGER NOT NULL REFERENCES jobs (id),
    at      INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    bytes   INTEGER NOT NULL,
    text    TEXT NOT NULL,
    PRIMARY KEY (job, at)
);

CREATE TABLE artifacts (
    artifact           TEXT PRIMARY KEY,
    app                TEXT NOT NULL REFERENCES apps (name),
    commit_id          TEXT NOT NULL,
    job                INTEGER NOT NULL REFERENCES jobs (id),
    size               INTEGER NOT NULL,
    wire_size          INTEGER NOT NULL,
    pieces             INTEGER NOT NULL,
    entries            INTEGER NOT NULL,
    manifest_bytes     INTEGER NOT NULL,
    replication_status TEXT NOT NULL DEFAULT 'pending',
    created_at         INTEGER NOT NULL
);
CREATE INDEX artifacts_by_app ON artifacts (app, created_at);

CREATE TABLE tokens (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    role       TEXT NOT NULL,
    region     TEXT,
    host       TEXT,
    mac        TEXT NOT NULL,                 -- keyed hash; never the secret
    created_at INTEGER NOT NULL,
    created_by TEXT NOT NULL
);

CREATE TABLE workers (
    id      TEXT PRIMARY KEY,
    machine TEXT NOT NULL,
    slots   INTEGER NOT NULL,
    token   TEXT NOT NULL,
    seen_at INTEGER NOT NULL
);
CREATE INDEX workers_by_seen ON workers (seen_at);

CREATE TABLE events (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    app     TEXT,
    env     TEXT,
    build   INTEGER,
    release INTEGER,
    region  TEXT,
    actor   TEXT NOT NULL,
    message TEXT NOT NULL
);
CREATE INDEX events_by_app ON events (app, seq);
