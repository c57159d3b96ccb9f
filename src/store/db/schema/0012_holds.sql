-- What a person keeps where it is: apps and envs (no deploy starts), hosts and regions.
CREATE TABLE holds (
    id         INTEGER PRIMARY KEY AUTOINCREMENT, -- the number in h3
    app        TEXT,                              -- NULL: every app
    env        TEXT,                              -- NULL: every env
    host       TEXT,
    region     TEXT,
    target     TEXT,                              -- JSON of model::goal::Target; NULL: what runs
    reason     TEXT NOT NULL,
    actor      TEXT NOT NULL,
    from_at    INTEGER NOT NULL,
    until_at   INTEGER NOT NULL,
    ended_at   INTEGER,
    ended_by   TEXT
);
CREATE INDEX holds_standing ON holds (until_at) WHERE ended_at IS NULL;
