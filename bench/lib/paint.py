"""The browser's part of bench/page: weights by HTTP, paints by WebDriver."""
import gzip
import http.server
import json
import re
import statistics
import sys
import threading
import urllib.parse
import urllib.request

WEIGHT_MAX = 100 * 1024
PAINT_MAX_MS = 200
BARE = b"<!doctype html><title>bare</title><p>bare</p>"
PAGES = [
    "/", "/apps/hello/prod", "/apps/hello/prod/r3", "/apps/hello/prod/r5", "/builds",
    "/builds/b2", "/hosts", "/events", "/do/deploy?app=hello&env=prod&build=b3&allow_bad=true",
]


class Bare(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(BARE)))
        self.end_headers()
        self.wfile.write(BARE)

    def log_message(self, *_):
        pass


class Driver:
    def __init__(self, base):
        args = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900"]
        wanted = {"browserName": "chrome", "goog:chromeOptions": {"args": args}}
        made = call(f"{base}/session", {"capabilities": {"alwaysMatch": wanted}})
        self.base = f"{base}/session/{made['sessionId']}"

    def go(self, url):
        call(f"{self.base}/url", {"url": url})

    def devtools(self, command, params):
        call(f"{self.base}/goog/cdp/execute", {"cmd": command, "params": params})

    def run(self, script):
        return call(f"{self.base}/execute/async", {"script": script, "args": []})

    def paint(self, url):
        """Milliseconds from the start of the navigation to the first paint."""
        self.devtools("Network.clearBrowserCache", {})
        self.go(url)
        return self.run(
            "const done = arguments[0]; const look = () => {"
            " const seen = performance.getEntriesByName('first-paint')[0];"
            " seen ? done(seen.startTime) : setTimeout(look, 5); }; look();"
        )

    def end(self):
        urllib.request.urlopen(urllib.request.Request(self.base, method="DELETE")).read()


def call(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    return json.load(urllib.request.urlopen(request))["value"]


class Server:
    def __init__(self, base, token_file):
        self.base, self.token = base, open(token_file).read().strip()
        form = urllib.parse.urlencode({"token": self.token, "page": "/"}).encode()
        request = urllib.request.Request(f"{base}/signin", form)
        opener = urllib.request.build_opener(Stay)
        self.cookie = opener.open(request).headers["set-cookie"].split(";")[0]

    def get(self, path):
        request = urllib.request.Request(self.base + path, headers={"cookie": self.cookie})
        return urllib.request.urlopen(request).read()

    def weight(self, path):
        """Bytes of a page with all that it loads: as they are, and by gzip -9."""
        html = self.get(path)
        names = sorted(set(re.findall(r'/assets/[^"]+', html.decode())))
        bodies = [html] + [self.get(name) for name in names]
        return sum(map(len, bodies)), sum(len(gzip.compress(body, 9)) for body in bodies)

    def sign_in(self, driver):
        request = urllib.request.Request(
            f"{self.base}/v1/links", json.dumps({"page": "/"}).encode(),
            {"authorization": f"Bearer {self.token}", "content-type": "application/json"},
        )
        driver.go(self.base + json.load(urllib.request.urlopen(request))["path"])


class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None

    def http_error_303(self, _request, reply, *_):
        return reply


def main():
    base, loads = sys.argv[1], int(sys.argv[2])
    demo, fleet = Server(*sys.argv[3:5]), Server(*sys.argv[5:7])
    bare = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bare)
    threading.Thread(target=bare.serve_forever, daemon=True).start()
    bare_url = f"http://127.0.0.1:{bare.server_port}/"
    cases = [("bare page", None, bare_url)]
    cases += [(path, demo, demo.base + path) for path in PAGES]
    cases += [("/hosts, 10,000 hosts", fleet, fleet.base + "/hosts")]
    driver = Driver(base)
    try:
        demo.sign_in(driver)
        driver.go(bare_url)
        paints = {name: [] for name, *_ in cases}
        # One round loads each page once, so that a busy moment hits all of them. Two
        # servers on one address share the browser's cookies: the fleet has its turn last.
        for _ in range(loads):
            for name, server, url in cases:
                if server is not fleet:
                    paints[name].append(driver.paint(url))
        fleet.sign_in(driver)
        for _ in range(loads):
            paints[cases[-1][0]].append(driver.paint(cases[-1][2]))
    finally:
        driver.end()
    print(f"{'page':56} {'KiB':>7} {'gzip':>7} {'paint ms: median':>17} {'fastest':>8} {'slowest':>8} {'/ bare':>7}")
    floor, heavy, slow = statistics.median(paints["bare page"]), [], []
    for name, server, url in cases:
        took = paints[name]
        median = statistics.median(took)
        plain, packed = server.weight(url[len(server.base):]) if server else (len(BARE), len(gzip.compress(BARE)))
        print(f"{name:56} {plain / 1024:7.1f} {packed / 1024:7.1f} {median:17.0f} {min(took):8.0f} {max(took):8.0f} {median / floor:7.2f}")
        heavy += [name] if plain > WEIGHT_MAX else []
        slow += [name] if median > PAINT_MAX_MS and server is not fleet else []
    print(f"{loads} loads each, empty cache; bars: {WEIGHT_MAX // 1024} KiB each, {PAINT_MAX_MS} ms for the demo's pages")
    if heavy or slow:
        sys.exit(f"over the bar: weight {heavy}, paint {slow}")


main()
