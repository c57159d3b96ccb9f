-- Releases and their rollouts, goals, the regions' feed, what regions report.

-- One row per app and env that was ever deployed to.
CREATE TABLE envs (
    app          TEXT NOT NULL REFERENCES apps (name),
    env          TEXT NOT NULL,
    last_release INTEGER NOT NULL DEFAULT 0,
    stable       TEXT NOT NULL,                -- JSON of model::rollout::Stable
    goal_release INTEGER NOT NULL DEFAULT 0,   -- the release that the newest goal leads to
    generation   INTEGER NOT NULL DEFAULT 0,   -- of the newest goal
    stamp        INTEGER NOT NULL DEFAULT 0,   -- grows with whatever a watcher could see
    PRIMARY KEY (app, env)
);

-- A release and the rollout that tries it.
CREATE TABLE releases (
    app        TEXT NOT NULL REFERENCES apps (name),
    env        TEXT NOT NULL,
    release    INTEGER NOT NULL,               -- the number in r412
    kind       TEXT NOT NULL CHECK (kind IN ('deploy', 'rollback')),
    same_as    INTEGER,
    build      INTEGER NOT NULL REFERENCES jobs (id),
    commit_id  TEXT NOT NULL,
    subject    TEXT NOT NULL,
    artifact   TEXT,                           -- NULL while its build is not done
    state      TEXT NOT NULL,
    bad        INTEGER NOT NULL DEFAULT 0,
    actor      TEXT NOT NULL,
    message    TEXT NOT NULL,
    rollout    TEXT NOT NULL,                  -- JSON of rules::rollout::Rollout
    tallies    TEXT NOT NULL DEFAULT '{}',     -- JSON, by region, as they were when it ended
    created_at INTEGER NOT NULL,
    ended_at   INTEGER,
    stamp      INTEGER NOT NULL,               -- compare-and-set of this row
    PRIMARY KEY (app, env, release)
);
-- At most one open rollout per app and env.
CREATE UNIQUE INDEX releases_open ON releases (app, env)
    WHERE state IN ('pending', 'running', 'paused', 'reverting');
CREATE INDEX releases_by_artifact ON releases (app, env, artifact);

-- Goals as they were decided, on their way to the goal store, in order.
CREATE TABLE goal_outbox (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    key        TEXT NOT NULL,
    epoch      INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    step       INTEGER NOT NULL,
    payload    TEXT NOT NULL,
    signature  TEXT NOT NULL
);

-- The embedded goal store, and the coordinator's copy of any other: app/env to document.
CREATE TABLE goals (
    key        TEXT PRIMARY KEY,
    epoch      INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    step       INTEGER NOT NULL,
    payload    TEXT NOT NULL,                  -- the exact bytes that were signed
    signature  TEXT NOT NULL,
    revision   INTEGER NOT NULL                -- of the feed, when it was stored
);
CREATE INDEX goals_by_revision ON goals (revision);

-- What changed for the regions, newest last; a key has one row. Revisions never repeat.
CREATE TABLE feed (
    revision INTEGER PRIMARY KEY AUTOINCREMENT,
    kind     TEXT NOT NULL CHECK (kind IN ('goal', 'artifact', 'tokens')),
    key      TEXT NOT NULL
);
CREATE UNIQUE INDEX feed_one ON feed (kind, key);

CREATE TRIGGER feed_artifact_made AFTER INSERT ON artifacts BEGIN
    DELETE FROM feed WHERE kind = 'artifact' AND key = new.artifact;
    INSERT INTO feed (kind, key) VALUES ('artifact', new.artifact);
END;
CREATE TRIGGER feed_artifact_gone AFTER DELETE ON artifacts BEGIN
    DELETE FROM feed WHERE kind = 'artifact' AND key = old.artifact;
    INSERT INTO feed (kind, key) VALUES ('artifact', old.artifact);
END;
CREATE TRIGGER feed_token_made AFTER INSERT ON tokens WHEN new.role = 'agent' BEGIN
    DELETE FROM feed WHERE kind = 'tokens' AND key = coalesce(new.region, '');
    INSERT INTO feed (kind, key) VALUES ('tokens', coalesce(new.region, ''));
END;
CREATE TRIGGER feed_token_gone AFTER DELETE ON tokens WHEN old.role = 'agent' BEGIN
    DELETE FROM feed WHERE kind = 'tokens' AND key = coalesce(old.region, '');
    INSERT INTO feed (kind, key) VALUES ('tokens', coalesce(old.region, ''));
END;
INSERT INTO feed (kind, key) SELECT 'artifact', artifact FROM artifacts ORDER BY created_at;

-- What regions report.
CREATE TABLE tallies (
    app        TEXT NOT NULL,
    env        TEXT NOT NULL,
    region     TEXT NOT NULL,
    tally      TEXT NOT NULL,                  -- JSON of model::fleet::Tally
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (app, env, region)
);
CREATE TABLE hosts (
    region    TEXT NOT NULL,
    host      TEXT NOT NULL,
    env       TEXT NOT NULL,
    labels    TEXT NOT NULL,                   -- JSON of model::selector::Labels
    reachable INTEGER NOT NULL,
    seen_at   INTEGER NOT NULL,
    info      TEXT NOT NULL,                   -- JSON of wire::v1::fleet::HostRow
    PRIMARY KEY (region, host)
);
CREATE INDEX hosts_by_env ON hosts (env, region, reachable);
CREATE INDEX hosts_by_name ON hosts (host);
CREATE TABLE regions (
    region      TEXT PRIMARY KEY,
    seen_at     INTEGER NOT NULL,
    hosts       INTEGER NOT NULL,
    unreachable INTEGER NOT NULL,
    revision    INTEGER NOT NULL               -- of the feed, as the region mirrors it
);

-- One region's copy of one artifact: its own word, and what the synchronizer found.
CREATE TABLE replicas (
    artifact    TEXT NOT NULL,
    region      TEXT NOT NULL,
    status      TEXT NOT NULL DEFAULT 'pending',
    bytes       INTEGER NOT NULL DEFAULT 0,    -- of the pack, verified, as the region says
    claimed     INTEGER NOT NULL DEFAULT 0,    -- the region calls its copy complete
    error       TEXT NOT NULL DEFAULT '',      -- what stops the region, if something does
    reported_at INTEGER,
    checked_at  INTEGER,                       -- when the synchronizer last looked
    reason      TEXT NOT NULL DEFAULT '',      -- what it found wrong
    PRIMARY KEY (artifact, region)
);
CREATE INDEX replicas_by_region ON replicas (region, status);

-- Requests that were answered, so that a repeated one gets the same answer.
CREATE TABLE idempotency (
    actor   TEXT NOT NULL,
    key     TEXT NOT NULL,
    request TEXT NOT NULL,                     -- digest of what was asked
    app     TEXT NOT NULL,
    env     TEXT NOT NULL,
    release INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    PRIMARY KEY (actor, key)
);
CREATE INDEX idempotency_by_time ON idempotency (at);
