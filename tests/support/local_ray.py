"""A local Ray cluster that the executor starts: prints what it told, and the addresses at which anything listens."""

import json
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from prunetune.execution.executors.ray import RayExecutor
from prunetune.store.store import Store
from tests.support.toy_study import Work, init


def listening() -> list[str]:
    """Of this process and all that it has started and that has not ended meanwhile."""
    me, sockets = psutil.Process(), []
    for one in [me, *me.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            sockets += one.net_connections("inet")
    return sorted({socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN})


if __name__ == "__main__":
    kinds, addresses = [], []
    for event in RayExecutor(jobs=1).run(Work((init(),)), Store(Path(sys.argv[1]))):
        kinds.append(event.kind)
        addresses.append(listening())
    print(json.dumps({"kinds": kinds, "addresses": addresses}))
