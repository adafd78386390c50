"""Which of the server's threads may interrupt others: its event loops, and what they start."""

import os
from pathlib import Path

from tests.conftest import Server


def test_envoy_waits_for_its_turn_and_the_event_loops_do_not(server: Server) -> None:
    policies: dict[str, list[int]] = {}
    for thread in Path(f"/proc/{server.running.process.pid}/task").iterdir():
        name = (thread / "comm").read_text().strip().partition(":")[0]
        policies.setdefault(name, []).append(os.sched_getscheduler(int(thread.name)))
    assert set(policies["wrk"]) == {os.SCHED_BATCH}  # Envoy's workers
    others = [policy for name, threads in policies.items() if name != "wrk" for policy in threads]
    assert others.count(os.SCHED_OTHER) >= 2  # gRPC's event loop and REST's
    assert others.count(os.SCHED_BATCH) >= 2  # the threads that hand them the messages
