-- Artifacts that the collector took away, or is about to. Such an artifact has no row in
-- `artifacts`: it can't be deployed, and regions are told that it is gone. Once its objects
-- are being deleted its name is never used again: a delete that comes late finds nothing.

CREATE TABLE collected (
    artifact       TEXT PRIMARY KEY,
    app            TEXT,                       -- NULL: an object that no row named
    commit_id      TEXT,                       -- NULL: that, or a patch
    job            INTEGER,
    size           INTEGER NOT NULL DEFAULT 0,
    wire_size      INTEGER NOT NULL DEFAULT 0,
    pieces         INTEGER NOT NULL DEFAULT 0,
    entries        INTEGER NOT NULL DEFAULT 0,
    manifest_bytes INTEGER NOT NULL DEFAULT 0,
    state          TEXT NOT NULL CHECK (state IN ('marked', 'going', 'gone')),
    marked_at      INTEGER NOT NULL,
    due_at         INTEGER NOT NULL,           -- when its objects are deleted, or that is tried again
    gone_at        INTEGER,
    error          TEXT NOT NULL DEFAULT ''    -- why they are not deleted yet
);
CREATE INDEX collected_due ON collected (due_at) WHERE state <> 'gone';
CREATE INDEX collected_by_commit ON collected (app, commit_id);
CREATE INDEX collected_gone ON collected (gone_at) WHERE state = 'gone';
-- Whoever deletes an artifact's row looks for the patches that start from it.
CREATE INDEX patches_by_from ON patches (from_artifact);
