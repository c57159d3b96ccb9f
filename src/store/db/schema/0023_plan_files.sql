-- No table changes: from this version on a rollout's JSON may hold `plan_file`, a plan that a
-- person wrote. The number is there to be asked for: whoever does not know it would leave the
-- plan out when it writes the row, and is kept from working here once there is one.
SELECT 1;
