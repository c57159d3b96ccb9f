-- Patches: artifacts of one file that make one release's artifact out of another's.
-- A patch's own row in `artifacts` brings it to every region, as any other's does.

CREATE TABLE patches (
    to_artifact   TEXT NOT NULL REFERENCES artifacts (artifact),
    from_artifact TEXT NOT NULL REFERENCES artifacts (artifact),
    state         TEXT NOT NULL CHECK (state IN ('making', 'made', 'none')),
    patch         TEXT UNIQUE REFERENCES artifacts (artifact),  -- set exactly when made
    reason        TEXT NOT NULL DEFAULT '',                     -- why there is none
    updated_at    INTEGER NOT NULL,
    PRIMARY KEY (to_artifact, from_artifact)
);
-- The last deployed releases of an app, whatever the env: the bases of its next patches.
CREATE INDEX releases_by_app ON releases (app, created_at);
