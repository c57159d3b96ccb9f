-- Hosts that a person took out of service, until their region has forgotten them too.
CREATE TABLE forgotten (
    region TEXT NOT NULL,
    host   TEXT NOT NULL,
    at     INTEGER NOT NULL,
    PRIMARY KEY (region, host)
);
