-- Windows in which no deploy starts.
CREATE TABLE freezes (
    id         INTEGER PRIMARY KEY AUTOINCREMENT, -- the number in f3
    app        TEXT,                              -- NULL: every app
    env        TEXT,                              -- NULL: every env
    reason     TEXT NOT NULL,
    actor      TEXT NOT NULL,
    from_at    INTEGER NOT NULL,
    until_at   INTEGER NOT NULL,
    ended_at   INTEGER,                           -- a person ended it early
    ended_by   TEXT
);
CREATE INDEX freezes_standing ON freezes (until_at) WHERE ended_at IS NULL;
