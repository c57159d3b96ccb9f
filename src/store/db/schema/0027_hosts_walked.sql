-- A deploy in steps looks at every host of its env: in this index alone, and not in the rows,
-- which are wide. It also counts hosts by region, as the index did whose place it takes.
CREATE INDEX hosts_walked ON hosts (env, region, reachable, host);
DROP INDEX hosts_by_env;
