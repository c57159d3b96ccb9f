-- How far a rollout's hosts were, as it went: the points of its completion curve.
CREATE TABLE curves (
    app     TEXT    NOT NULL,
    env     TEXT    NOT NULL,
    release INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    hosts   INTEGER NOT NULL,
    staged  INTEGER NOT NULL,
    healthy INTEGER NOT NULL,
    PRIMARY KEY (app, env, release, at)
);
