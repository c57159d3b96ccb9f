-- How the etcds are that a region uses, as it reported last: JSON of `ReportedStores`;
-- empty: it uses none, or is older.
ALTER TABLE regions ADD COLUMN goal_stores TEXT NOT NULL DEFAULT '';
