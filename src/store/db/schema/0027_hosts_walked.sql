-- Each deploy looks at every host of its env: of this index alone, and not of the rows, which are
-- wide. It counts hosts by region, too, as the one whose place it takes did.
CREATE INDEX hosts_walked ON hosts (env, region, reachable, host);
DROP INDEX hosts_by_env;
