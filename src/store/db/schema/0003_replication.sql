-- What the synchronizer needs to look at the right copies first.

-- When pieces were last sampled; 0: never.
ALTER TABLE replicas ADD COLUMN sampled_at INTEGER NOT NULL DEFAULT 0;
-- A piece that was found damaged; sampled again until the copy is found whole.
ALTER TABLE replicas ADD COLUMN bad_piece INTEGER;
