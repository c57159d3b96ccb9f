"""Puts hosts into a coordinator's database, as their regions would have reported them:
a fleet in the middle of a rollout, for pictures and for the weight of a page.

    python3 bench/lib/fleet_rows.py DATA_FOLDER/coordinator.db HOSTS
"""
import json
import sqlite3
import sys
import time

REGIONS = [("eu", 5), ("us", 4), ("ap", 1)]  # parts of ten
OLD, NEW = ({"release": release, "artifact": digit * 64} for release, digit in (("r7", "a"), ("r8", "b")))


def state(n, of):
    """What host n of a region does: the first third has the new release."""
    late = n * 3 > of
    if n % 97 == 13:
        return OLD, "failed", {"class": "release", "reason": "probe failed: GET /healthz answered 500", "log": []}
    if late and n % 5:
        return OLD, "healthy", None
    if late:
        return OLD, "fetching", None
    return NEW, "healthy", None


def rows(hosts):
    now = int(time.time() * 1000)
    seen = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    for region, part in REGIONS:
        count = max(1, hosts * part // 10)
        for n in range(count):
            runs, phase, failure = state(n, count)
            info = {"host": f"{region}-{n:05}", "env": "prod", "peer_port": 7900, "agent_version": "0"}
            wants = OLD if (runs, phase) == (OLD, "healthy") else NEW
            app = {"app": "web", "env": "prod", "version": {"epoch": 1, "generation": 8, "step": 3},
                   "running": runs, "desired": wants, "phase": phase, "failure": failure}
            reachable = n % 211 != 7
            row = {"info": info, "region": region, "address": "10.0.0.1", "reachable": reachable,
                   "seen_at": seen, "apps": [app]}
            yield region, info["host"], "prod", "{}", int(reachable), now, json.dumps(row)


def main():
    path, hosts = sys.argv[1], int(sys.argv[2])
    db = sqlite3.connect(path, timeout=30)
    with db:
        db.execute("DELETE FROM hosts")
        db.executemany("INSERT INTO hosts (region, host, env, labels, reachable, seen_at, info) VALUES (?,?,?,?,?,?,?)", rows(hosts))


main()
