-- No table changes: from this version on a rollout's JSON may hold `canary`, hosts that a person
-- named to go first. Whoever does not know it would take them back and let others in, and is
-- kept from working here once there is one.
SELECT 1;
