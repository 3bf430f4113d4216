"""What a service has started, as /proc shows it, and ports for it."""

import socket
from contextlib import ExitStack
from pathlib import Path


def free_ports(count):
    """Ports on loopback that were free a moment ago, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def descendants(pid):
    """Process ids of a process and of all that it has started, directly or not."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended while we looked
            parents[int(entry.name)] = int(fields[1])
    family, last = {pid}, 0
    while len(family) != last:
        last = len(family)
        family |= {child for child, parent in parents.items() if parent in family}
    return family


def words_of(pid):
    """A process's command line; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def replicas_of(pid):
    """Process ids of the replicas that a service or a head runs."""
    return {each for each in descendants(pid) if words_of(each)[0:1] and "ServeReplica" in words_of(each)[0]}


def haproxies_of(pid):
    """Process ids of its HAProxies; after a reload there may be two for a while."""
    return {each for each in descendants(pid) if words_of(each)[0:1] and words_of(each)[0].endswith("bin/haproxy")}


def resident_bytes(pid):
    """The memory that a process holds, in bytes."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


def listening(pids):
    """Addresses, as the kernel writes them (hexadecimal), on which these processes take TCP connections."""
    return {row[1].rpartition(":")[0] for row in _listeners(pids)}


def unread_by(pid):
    """Bytes that wait in the fullest TCP connection to a process, which may not have accepted it yet."""
    ports = {row[1].rpartition(":")[2] for row in _listeners([pid])}
    to_it = [row for row in _connections() if row[1].rpartition(":")[2] in ports and row[3] == "01"]
    return max((int(row[4].rpartition(":")[2], 16) for row in to_it), default=0)


def _listeners(pids):
    sockets = set()
    for pid in pids:
        try:
            sockets |= {str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:
            continue
    return [row for row in _connections() if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]


def _connections():
    """Rows of /proc/net/tcp: local and remote address, state, queues, inode among others."""
    return [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]


def folders_of(pid):
    """Folders `nb-...` that a process and its descendants have on their command lines."""
    found = set()
    for each in descendants(pid):
        parts = [part for word in words_of(each) for part in word.split("=")]
        paths = [Path(part) for part in parts if "/nb-" in part and part.startswith("/")]
        found |= {parent for path in paths for parent in (path, *path.parents) if parent.name.startswith("nb-")}
    return found


def logged(pid, request_id):
    """What a service's replicas wrote into their logs about a request, a line of JSON each."""
    logs = [path for folder in folders_of(pid) for path in folder.rglob("replica_*.log")]
    return [line for log in logs for line in log.read_text(errors="replace").splitlines() if request_id in line]
