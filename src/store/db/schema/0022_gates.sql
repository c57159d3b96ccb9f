-- What programs that judge bakes said: of each, the newest bake and its runs.
CREATE TABLE gate_runs (
    app           TEXT NOT NULL,
    env           TEXT NOT NULL,
    gate          TEXT NOT NULL,
    run           INTEGER NOT NULL,            -- fencing token of the run under way
    claimed_until INTEGER NOT NULL,            -- by then whoever runs it has ended; 0: nobody does
    began_at      INTEGER NOT NULL,            -- of the newest run
    record        TEXT NOT NULL,               -- JSON of model::gate::Record
    PRIMARY KEY (app, env, gate)
);
