-- What a built commit needs of other apps: where it is deployed, they run that commit or a later one.
CREATE TABLE requirements (
    build     INTEGER NOT NULL REFERENCES jobs (id),
    needs     TEXT NOT NULL,                    -- the other app
    commit_id TEXT NOT NULL,                    -- the oldest commit of it that will do
    PRIMARY KEY (build, needs)
);
CREATE INDEX requirements_needs ON requirements (needs, build);
