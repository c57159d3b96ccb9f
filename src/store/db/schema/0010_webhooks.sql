-- Who is told of events, and what they have not taken yet.
CREATE TABLE webhooks (
    name       TEXT PRIMARY KEY,
    origin     TEXT NOT NULL,                  -- scheme and host: what is shown of the URL
    url        TEXT NOT NULL,
    format     TEXT NOT NULL,
    scope      TEXT NOT NULL,                  -- JSON of model::webhook::WebhookScope
    nonce      TEXT NOT NULL,                  -- its key is derived from this and token.key
    actor      TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    seen       INTEGER NOT NULL,               -- events up to here are in the outbox or past
    delivered  INTEGER NOT NULL DEFAULT 0,
    dropped    INTEGER NOT NULL DEFAULT 0,
    last_error TEXT NOT NULL DEFAULT ''
);
CREATE TABLE webhook_outbox (
    webhook TEXT NOT NULL,
    seq     INTEGER NOT NULL,                  -- of the event
    attempt INTEGER NOT NULL,                  -- fencing token of the attempt under way
    due_at  INTEGER NOT NULL,
    PRIMARY KEY (webhook, seq)
);
CREATE INDEX webhook_outbox_due ON webhook_outbox (due_at);
