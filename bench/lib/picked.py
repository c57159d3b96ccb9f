"""Times dry runs of deploys that name hosts: picked.py SERVER DATA_FOLDER TRIES."""

import http.client
import json
import sqlite3
import statistics
import sys
import threading
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


class Writer(threading.Thread):
    """Writes that find nothing to do, one after the other, as anybody's would stand in line."""

    def __init__(self):
        super().__init__(daemon=True)
        self.waited, self.stopped = [], False

    def run(self):
        own = http.client.HTTPConnection(urllib.parse.urlsplit(server).netloc, timeout=120)
        while not self.stopped:
            began = time.monotonic()
            own.request("POST", "/v1/freezes/f999/end", None, headers)
            own.getresponse().read()
            self.waited.append((time.monotonic() - began) * 1000)
            time.sleep(0.01)


post("/v1/apps", {"name": "web", "repo": "file:///srv/web", "envs": ["prod"]})
build()
NAMES = ",".join(f"{region}-{n:05}" for region in ("eu", "us") for n in range(500, 525))
for hosts in (None, "eu-00500", NAMES, "eu-0050*", "*-00500"):
    took, longest = [], []
    for _ in range(int(tries)):
        writer = Writer()
        writer.start()
        time.sleep(0.1)
        began = time.monotonic()
        request = {"kind": "deploy", "target": "b1", "dry_run": True}
        post("/v1/apps/web/envs/prod/rollouts", request | ({"hosts": hosts} if hosts else {}))
        took.append((time.monotonic() - began) * 1000)
        writer.stopped = True
        writer.join()
        longest.append(max(writer.waited))
    deploy, wait = statistics.median(took), statistics.median(longest)
    shown = hosts or "(the plan alone)"
    shown = shown if len(shown) < 40 else "50 names"
    print(f"{deploy:8.1f} ms, another write waits {wait:8.1f} ms, {wait / deploy:4.2f} of it  {shown}", flush=True)
