-- How a built commit stands to others of its app, as its worker saw it in the repository.
CREATE TABLE ancestry (
    app       TEXT NOT NULL,
    build     INTEGER NOT NULL,                -- the build that was compared; old ones go
    commit_id TEXT NOT NULL,                   -- what it built
    other     TEXT NOT NULL,
    relation  TEXT NOT NULL CHECK (relation IN ('ancestor', 'descendant', 'apart')),
    PRIMARY KEY (app, build, other)
);
