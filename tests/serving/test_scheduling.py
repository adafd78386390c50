"""Which of the server's threads may interrupt others: its event loops, and what they start."""

import os
from pathlib import Path

from tests.conftest import Server, running_server
from tests.serving.conftest import RECORDED_MODELS


def policies_of(server: Server) -> dict[str, list[int]]:
    """The policies of the server's threads, by their names."""
    policies: dict[str, list[int]] = {}
    for thread in Path(f"/proc/{server.running.process.pid}/task").iterdir():
        name = (thread / "comm").read_text().strip().partition(":")[0]
        policies.setdefault(name, []).append(os.sched_getscheduler(int(thread.name)))
    return policies


def test_envoy_waits_for_its_turn_and_the_event_loops_do_not(server: Server) -> None:
    policies = policies_of(server)
    assert set(policies["wrk"]) == {os.SCHED_BATCH}  # Envoy's workers
    others = [policy for name, threads in policies.items() if name != "wrk" for policy in threads]
    assert others.count(os.SCHED_OTHER) >= 2  # gRPC's event loop and REST's
    assert others.count(os.SCHED_BATCH) >= 2  # the threads that hand them the messages


def test_a_policy_that_somebody_has_chosen_stays() -> None:
    with running_server(
        f"--model_base_path={RECORDED_MODELS / 'half_plus_two'}",
        "--model_name=half_plus_two",
        preexec_fn=lambda: os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0)),
    ) as server:
        assert {policy for threads in policies_of(server).values() for policy in threads} == {os.SCHED_IDLE}
