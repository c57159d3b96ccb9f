-- Coordinators that work on this database, as they last said.
CREATE TABLE coordinators (
    id         TEXT PRIMARY KEY,   -- random, of one start of one process
    version    TEXT NOT NULL,
    url        TEXT NOT NULL,      -- where it listens, as it knows itself
    started_at INTEGER NOT NULL,
    seen_at    INTEGER NOT NULL
);
