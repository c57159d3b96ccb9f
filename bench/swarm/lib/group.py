"""The processes of one host: a control group, so that none is missed when CPU is counted or all are ended."""
import os
import re
import signal
import time

V1, V2 = "/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup"


class Group:
    def __init__(self, name):
        self.v1 = os.path.isdir(V1)
        self.path = f"{V1 if self.v1 else V2}/{name}"
        os.makedirs(self.path, exist_ok=True)

    def pids(self):
        try:
            with open(f"{self.path}/cgroup.procs") as procs:
                return [int(pid) for pid in procs.read().split()]
        except OSError:
            return []

    def cpu_s(self):
        """CPU seconds so far, user and system, of the living and the dead."""
        if self.v1:
            with open(f"{self.path}/cpuacct.usage") as usage:
                return int(usage.read()) / 1e9
        with open(f"{self.path}/cpu.stat") as stat:
            return int(re.search(r"usage_usec (\d+)", stat.read()).group(1)) / 1e6

    def peaks(self):
        """Peak resident KiB of each living process."""
        found = {}
        for pid in self.pids():
            try:
                with open(f"/proc/{pid}/status") as status:
                    peak = re.search(r"VmHWM:\s+(\d+)", status.read())
            except OSError:
                continue
            if peak:
                found[pid] = int(peak.group(1))
        return found

    def end(self):
        for sign, wait in ((signal.SIGTERM, 1.0), (signal.SIGKILL, 5.0)):
            until = time.monotonic() + wait
            for pid in self.pids():
                try:
                    os.kill(pid, sign)
                except ProcessLookupError:
                    pass
            while self.pids() and time.monotonic() < until:
                time.sleep(0.02)
        for _ in range(100):
            try:
                return os.rmdir(self.path)
            except FileNotFoundError:
                return None
            except OSError:
                time.sleep(0.02)
