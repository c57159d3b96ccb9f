"""Times dry runs of deploys that name hosts, and what an open rollout costs: picked.py SERVER DATA_FOLDER TRIES PID."""

import http.client
import json
import os
import sqlite3
import statistics
import sys
import threading
import time
import urllib.parse

server, data, tries, pid = sys.argv[1:]
token = open(f"{data}/tokens/admin.token").read().strip()
headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
connection = http.client.HTTPConnection(urllib.parse.urlsplit(server).netloc, timeout=120)
COMMIT = "d" * 40


def post(path, body):
    connection.request("POST", path, json.dumps(body), headers)
    reply = connection.getresponse()
    text = reply.read().decode()
    if reply.status >= 300:
        sys.exit(f"{reply.status}: {text}")
    return json.loads(text)


def build(number, app):
    """A build as a worker would have left it."""
    db = sqlite3.connect(f"{data}/coordinator.db", timeout=30)
    artifact = f"{number:064}"
    with db:
        db.execute("INSERT INTO jobs (id, app, commit_id, recipe_digest, status, attempt, max_attempts, not_before, artifact,"
                   " queued_at, actor, subject, repo, trunk, recipe, failure_class, failure_reason)"
                   " VALUES (?, ?, ?, 'x', 'SUCCEEDED', 1, 3, 0, ?, 0, 'ann', 'a change', '', 'main', '{}', NULL, NULL)",
                   (number, app, COMMIT, artifact))
        db.execute("INSERT INTO artifacts (artifact, app, commit_id, job, size, wire_size, pieces, entries, manifest_bytes,"
                   " replication_status, created_at) VALUES (?, ?, ?, ?, 100, 100, 1, 1, 100, 'complete', 0)",
                   (artifact, app, COMMIT, number))


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


APPS = ["web"] + [f"web{n}" for n in range(2, 11)]
for number, app in enumerate(APPS, 1):
    post("/v1/apps", {"name": app, "repo": "file:///srv/web", "envs": ["prod"]})
    build(number, app)
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


def cpu():
    """Seconds that the coordinator computed."""
    words = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


OPEN_S = 20
for number, app in enumerate(APPS, 1):
    bound = {"max_unavailable": "1%"} if number == 1 else {}
    post(f"/v1/apps/{app}/envs/prod/rollouts", {"kind": "deploy", "target": f"b{number}", **bound})
writer, before = Writer(), cpu()
writer.start()
time.sleep(OPEN_S)
used = (cpu() - before) / OPEN_S
writer.stopped = True
writer.join()
print(f"{len(APPS)} rollouts open, one with --max-unavailable: {used:4.2f} of a core, another write waits {max(writer.waited):8.1f} ms at most", flush=True)
