"""A shaped network: one namespace per host on one bridge, which has a namespace of its own.

Every link is limited with htb at both ends of its veth: the end inside the host limits what it
sends, the end on the bridge what it receives. No delay and no loss is modelled. Congestion control
is Linux's usual one, whatever this machine's is.
"""
import subprocess

QUEUE_S = 0.02  # drop-tail queue of the shaper, at least QUEUE_BYTES
QUEUE_BYTES = 256 << 10
CONGESTION = "cubic"
ALLOWED = "/proc/sys/net/ipv4/tcp_allowed_congestion_control"
BURST_S = 0.002  # credit of the shaper; one segmentation burst of 64 KiB must fit
BURST_BYTES = 64 << 10


def run(*command, text=None):
    done = subprocess.run(command, input=text, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout.strip()}")
    return done.stdout


def allow_congestion():
    """A namespace may only have what the machine lets everybody choose; that list is made longer."""
    with open(ALLOWED, "r+") as file:
        allowed = file.read().split()
        if CONGESTION not in allowed:
            file.seek(0)
            file.write(" ".join([*allowed, CONGESTION]))


def batch(program, lines, namespace=None):
    inside = ("nsenter", f"--net=/run/netns/{namespace}") if namespace else ()
    run(*inside, program, "-batch", "-", text="\n".join(lines) + "\n")


def shape(device, mbit):
    """tc lines that limit what leaves through `device`."""
    per_s = mbit * 125_000
    burst, queue = max(BURST_BYTES, int(per_s * BURST_S)), max(QUEUE_BYTES, int(per_s * QUEUE_S))
    return [
        f"qdisc add dev {device} root handle 1: htb default 1",
        f"class add dev {device} parent 1: classid 1:1 htb rate {mbit}mbit ceil {mbit}mbit burst {burst} cburst {burst} quantum 60000",
        f"qdisc add dev {device} parent 1:1 bfifo limit {queue}",
    ]


class Network:
    """Host 0 is the store; `rates` are Mbit/s each way, 0 for no limit."""

    def __init__(self, tag, rates):
        self.rates = rates
        self.bridge = f"{tag}b"
        self.names = [f"{tag}h{i}" for i in range(len(rates))]
        self.ips = [f"10.214.{i // 200}.{i % 200 + 1}" for i in range(len(rates))]

    def up(self):
        allow_congestion()
        batch("ip", [f"netns add {name}" for name in [self.bridge, *self.names]])
        batch("ip", ["link add br0 type bridge forward_delay 0 mcast_snooping 0", "link set br0 up"], self.bridge)
        for i, (name, ip, rate) in enumerate(zip(self.names, self.ips, self.rates)):
            batch("ip", [f"link add p{i} type veth peer name eth0 netns {name}", f"link set p{i} master br0", f"link set p{i} up"], self.bridge)
            batch("ip", ["link set lo up", f"addr add {ip}/16 brd + dev eth0", "link set eth0 up", "route add default dev eth0"], name)
            run("nsenter", f"--net=/run/netns/{name}", "sysctl", "-qw", f"net.ipv4.tcp_congestion_control={CONGESTION}")
            if rate:
                batch("tc", shape(f"p{i}", rate), self.bridge)
                batch("tc", shape("eth0", rate), name)

    def enter(self, i):
        """The words before a command that make it run on host `i`."""
        return ["nsenter", f"--net=/run/netns/{self.names[i]}"]

    def counters(self):
        """(sent, received) bytes of every host, headers included, as the bridge counts them."""
        text = run("nsenter", f"--net=/run/netns/{self.bridge}", "cat", "/proc/net/dev")
        found = {}
        for line in text.splitlines()[2:]:
            device, rest = line.split(":")
            if device.strip()[1:].isdigit():
                words = rest.split()
                found[int(device.strip()[1:])] = (int(words[0]), int(words[8]))
        return [found[i] for i in range(len(self.names))]

    def down(self):
        for name in [*self.names, self.bridge]:
            subprocess.run(["ip", "netns", "del", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
