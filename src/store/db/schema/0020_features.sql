-- What a coordinator can do that older releases can't: words in between spaces; empty: it
-- is of a release that says nothing of it.
ALTER TABLE coordinators ADD COLUMN features TEXT NOT NULL DEFAULT '';
