"""Asks a coordinator for builds: queue_builds.py SERVER TOKEN-FILE APPS COMMITS-FILE, each commit of each app."""

import http.client
import json
import sys
import urllib.parse

server, token, apps, commits = sys.argv[1:]
headers = {"Authorization": "Bearer " + open(token).read().strip(), "Content-Type": "application/json"}
connection = http.client.HTTPConnection(urllib.parse.urlsplit(server).netloc, timeout=60)
for commit in open(commits).read().split():
    for app in range(1, int(apps) + 1):
        connection.request("POST", f"/v1/apps/app-{app}/builds", json.dumps({"commit": commit}), headers)
        reply = connection.getresponse()
        body = reply.read()
        if reply.status >= 300:
            sys.exit(f"{reply.status}: {body.decode()}")
