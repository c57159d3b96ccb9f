-- What changed lately, whatever the app: asked in an outage, when nobody waits for a scan.
CREATE INDEX releases_by_time ON releases (created_at);
