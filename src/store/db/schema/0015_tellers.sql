-- Which process of a region its counts are taken from; empty: the region has one process.
ALTER TABLE regions ADD COLUMN teller TEXT NOT NULL DEFAULT '';
