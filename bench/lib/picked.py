"""Times dry runs of deploys that name hosts: picked.py SERVER DATA_FOLDER TRIES."""

import http.client
import json
import sqlite3
import statistics
import sys
import time
import urllib.parse

server, data, tries = sys.argv[1:]
token = open(f"{data}/tokens/admin.token").read().strip()
headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
connection = http.client.HTTPConnection(urllib.parse.urlsplit(server).netloc, timeout=120)
ARTIFACT, COMMIT = "c" * 64, "d" * 40


def post(path, body):
    connection.request("POST", path, json.dumps(body), headers)
    reply = connection.getresponse()
    text = reply.read().decode()
    if reply.status >= 300:
        sys.exit(f"{reply.status}: {text}")
    return json.loads(text)


def build():
    """A build as a worker would have left it."""
    db = sqlite3.connect(f"{data}/coordinator.db", timeout=30)
    with db:
        db.execute("INSERT INTO jobs (id, app, commit_id, recipe_digest, status, attempt, max_attempts, not_before, artifact,"
                   " queued_at, actor, subject, repo, trunk, recipe, failure_class, failure_reason)"
                   " VALUES (1, 'web', ?, 'x', 'SUCCEEDED', 1, 3, 0, ?, 0, 'ann', 'a change', '', 'main', '{}', NULL, NULL)",
                   (COMMIT, ARTIFACT))
        db.execute("INSERT INTO artifacts (artifact, app, commit_id, job, size, wire_size, pieces, entries, manifest_bytes,"
                   " replication_status, created_at) VALUES (?, 'web', ?, 1, 100, 100, 1, 1, 100, 'complete', 0)",
                   (ARTIFACT, COMMIT))


post("/v1/apps", {"name": "web", "repo": "file:///srv/web", "envs": ["prod"]})
build()
NAMES = ",".join(f"{region}-{n:05}" for region in ("eu", "us") for n in range(500, 525))
for hosts in (None, "eu-00500", NAMES, "eu-0050*", "*-00500"):
    took = []
    for _ in range(int(tries)):
        began = time.monotonic()
        request = {"kind": "deploy", "target": "b1", "dry_run": True}
        post("/v1/apps/web/envs/prod/rollouts", request | ({"hosts": hosts} if hosts else {}))
        took.append((time.monotonic() - began) * 1000)
    shown = hosts or "(the plan alone)"
    print(f"{statistics.median(took):8.1f} ms  {shown if len(shown) < 40 else '50 names'}", flush=True)
