-- Configurations beside artifacts: one document of text, known by the SHA-256 of its bytes.
-- A row lasts as long as a release names it, and releases are kept.
CREATE TABLE configs (
    app        TEXT NOT NULL,
    config     TEXT NOT NULL,
    text       TEXT NOT NULL,                     -- at most 64 KiB, without NUL
    actor      TEXT NOT NULL,                     -- who brought it first
    created_at INTEGER NOT NULL,
    PRIMARY KEY (app, config)
);
CREATE INDEX configs_by_digest ON configs (config);
ALTER TABLE releases ADD COLUMN config TEXT;      -- NULL: the release has none
