-- Browsers that are signed in to the page, and links that sign one in once.

CREATE TABLE web_sessions (
    -- Keyed hash of the secret that the browser or the link holds.
    mac TEXT PRIMARY KEY,
    -- 'session' or 'link'.
    kind TEXT NOT NULL,
    -- The token that stands behind it, by its public id.
    token TEXT NOT NULL,
    made_at INTEGER NOT NULL,
    until INTEGER NOT NULL
);

CREATE INDEX web_sessions_until ON web_sessions (until);
CREATE INDEX web_sessions_token ON web_sessions (token, made_at);

-- A rollout's own events.
CREATE INDEX events_by_release ON events (app, env, release, seq) WHERE release IS NOT NULL;
