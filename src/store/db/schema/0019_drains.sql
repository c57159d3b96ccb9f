-- Workers that are given nothing new: by the id of one start of one, or by machine.
CREATE TABLE drains (
    name   TEXT PRIMARY KEY,
    actor  TEXT NOT NULL,
    reason TEXT NOT NULL,
    at     INTEGER NOT NULL
);
