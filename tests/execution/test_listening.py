"""No process of an audit waits for a connection from elsewhere: what nobody can reach, nobody can attack."""

import os
import socket
import time
from pathlib import Path

import pytest

from tests.support.cli_runs import started

PROC = Path("/proc")
LOOPBACK = "0100007F"  # 127.0.0.1
LISTENING, UNCONNECTED = "0A", "07"  # states of TCP, and of a UDP socket that takes from anybody
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not (PROC / "net" / "tcp").exists(), reason="no /proc/net/tcp to look into"),
]

STUDY = "data_args.train_limit=400 epochs=1 sparsities=[0.5] arms=[ticket,reinit] masks=[one_shot] learning_rates=[0.1]"


def waiting_sockets() -> dict[str, str]:
    """This machine's sockets that wait for somebody: inode -> address, as /proc writes it."""
    rows = [
        row.split()
        for table in ("tcp", "tcp6", "udp", "udp6")
        if (PROC / "net" / table).exists()
        for row in (PROC / "net" / table).read_text().splitlines()[1:]
    ]
    return {row[9]: row[1].partition(":")[0] for row in rows if row[3] in (LISTENING, UNCONNECTED)}


def family(pid: int) -> set[int]:
    """The process and all that descend from it."""
    parents = {}
    for folder in PROC.glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def sockets_of(pid: int) -> set[str]:
    found = set()
    for link in PROC.glob(f"{pid}/fd/*"):
        try:
            found.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
        except OSError:
            continue
    return found


def waiting(pid: int) -> set[str]:
    """The addresses at which a process and its descendants wait for a connection."""
    return set(sockets_that_wait(pid).values())


def sockets_that_wait(pid: int) -> dict[str, str]:
    """Those of a process and its descendants: inode -> address."""
    addresses = waiting_sockets()
    return {inode: addresses[inode] for one in family(pid) for inode in sockets_of(one) & addresses.keys()}


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["TCP", "UDP"])
def test_a_socket_that_waits_is_seen(kind: socket.SocketKind) -> None:
    before = sockets_that_wait(os.getpid()).keys()  # a server of other tests may run in this process
    with socket.socket(socket.AF_INET, kind) as mine:
        mine.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            mine.listen()
        (own,) = sockets_that_wait(os.getpid()).keys() - before
        assert sockets_that_wait(os.getpid())[own] == LOOPBACK


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "where"), [(1, set()), (2, {LOOPBACK})], ids=["one device", "two"])
def test_an_audit_waits_for_nobody_else(devices: int, where: set[str], tmp_path: Path) -> None:
    """Workers talk through pipes; the ranks of one training find one another on loopback."""
    changes = [part for change in [*STUDY.split(), f"devices={devices}"] for part in ("--set", change)]
    audit = started("audit", "quick", *changes, "--seeds", "1", "--jobs", "2", "--store", "store", cwd=tmp_path)
    most, found = 0, set()
    while audit.poll() is None:
        most = max(most, len(family(audit.pid)))
        found |= waiting(audit.pid)
        time.sleep(0.2)
    _, errors = audit.communicate()
    assert audit.returncode == 0, errors
    assert most >= 3  # the study and two workers or ranks were looked at
    assert found == where
