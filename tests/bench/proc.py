"""proc: what processes cost, from /proc."""
import os

TICKS = os.sysconf("SC_CLK_TCK")


def tree(root):
    """A process and all its descendants that live now."""
    parents = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
                parents[int(pid)] = int(f.read().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = [root]
    for pid in found:
        found += [p for p, parent in parents.items() if parent == pid]
    return found


def cpu_s(pids):
    """Processor time of these processes so far, user and system."""
    ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            fields = f.read().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


def memory(pid):
    """(resident, private dirty), bytes."""
    kb = {}
    with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as f:
        for line in list(f)[1:]:
            name, value = line.split()[:2]
            kb[name.rstrip(":")] = int(value)
    return kb["Rss"] * 1024, kb["Private_Dirty"] * 1024


def machine():
    """What may be said of any machine: processors, memory, kernel."""
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        model = next((line.partition(":")[2].strip() for line in f if line.startswith("model name")), "?")
    with open("/proc/meminfo", encoding="utf-8") as f:
        kib = int(next(line for line in f if line.startswith("MemTotal")).split()[1])
    return {"cores": os.cpu_count(), "model": model, "memory_gib": round(kib / 2**20, 1),
            "kernel": os.uname().release}
