#!/usr/bin/env python3
"""What the BitTorrent clients need beside themselves, the same for all.

torrent.py make FILE OUT ANNOUNCE PIECE_KIB   writes a .torrent
torrent.py track IP PORT SEEDED               a tracker; touches SEEDED when a seeder has announced itself
"""
import hashlib
import socket
import socketserver
import sys
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from os.path import basename, getsize

INTERVAL_S = 5


def encode(value):
    match value:
        case int():
            return b"i%de" % value
        case str():
            return encode(value.encode())
        case bytes():
            return b"%d:%s" % (len(value), value)
        case dict():
            return b"d" + b"".join(encode(k) + encode(v) for k, v in sorted(value.items())) + b"e"
        case _:
            raise TypeError(value)


def make(path, out, announce, piece_kib):
    length = int(piece_kib) << 10
    with open(path, "rb") as file:
        digests = b"".join(hashlib.sha1(piece).digest() for piece in iter(lambda: file.read(length), b""))
    info = {"length": getsize(path), "name": basename(path), "piece length": length, "pieces": digests}
    with open(out, "wb") as file:
        file.write(encode({"announce": announce, "info": info}))


class Tracker(BaseHTTPRequestHandler):
    """Every announce gets every other peer, compact."""

    swarms: dict = {}
    seeded = ""

    def log_message(self, *_):
        pass

    def do_GET(self):
        query = dict(pair.split("=", 1) for pair in self.path.partition("?")[2].split("&") if "=" in pair)
        swarm = self.swarms.setdefault(urllib.parse.unquote_to_bytes(query.get("info_hash", "")), set())
        me = (self.client_address[0], int(query.get("port", 0)))
        if query.get("event") == "stopped":
            swarm.discard(me)
        else:
            swarm.add(me)
        if query.get("left") == "0":
            open(self.seeded, "w").close()
        peers = b"".join(socket.inet_aton(ip) + port.to_bytes(2, "big") for ip, port in list(swarm) if (ip, port) != me)
        body = encode({"interval": INTERVAL_S, "min interval": 2, "peers": peers})
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True

    def server_bind(self):
        # The usual one asks for its own name, which takes seconds where nobody answers.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(*sys.argv[2:6])
    else:
        Tracker.seeded = sys.argv[4]
        Server((sys.argv[2], int(sys.argv[3])), Tracker).serve_forever()
