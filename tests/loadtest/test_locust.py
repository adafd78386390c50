"""What is tied to Locust, seen from inside a process that Locust has patched; see inside_locust.py."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.loadtest.conftest import KnownServer, Outcome

InsideLocust = Callable[..., Outcome]


def _holds(done: Outcome) -> None:
    assert done.code == 0, done.err


def test_a_worker_that_is_told_to_start_before_it_is_set_up_sends_all_the_same(
    inside_locust: InsideLocust, plain_server: KnownServer
) -> None:
    _holds(inside_locust("the_session_of_a_start_before_init", plain_server.grpc))


def test_a_user_that_sends_nothing_says_so(inside_locust: InsideLocust) -> None:
    done = inside_locust("a_user_without_a_session")
    _holds(done)
    assert "a user sends nothing" in done.err


def test_locusts_first_timer_counts_from_when_it_is_set(inside_locust: InsideLocust) -> None:
    _holds(inside_locust("the_first_timer"))


def test_users_leave_a_spike_at_once(inside_locust: InsideLocust) -> None:
    _holds(inside_locust("the_way_down_from_a_spike"))


def test_a_source_that_is_taken_away_leaves_at_once(inside_locust: InsideLocust, plain_server: KnownServer) -> None:
    _holds(inside_locust("an_open_loops_user_that_is_taken_away", plain_server.grpc))


def test_sources_of_one_process_take_turns(inside_locust: InsideLocust) -> None:
    _holds(inside_locust("the_phases_of_an_open_loops_users"))


@pytest.mark.parametrize("step", ["20", "-20"])
def test_setting_the_clock_does_not_touch_the_figures(
    inside_locust: InsideLocust, plain_server: KnownServer, step: str
) -> None:
    _holds(inside_locust("a_run_in_which_the_clock_is_set", plain_server.grpc, step))


def test_a_generator_without_file_descriptors_does_not_blame_the_server(inside_locust: InsideLocust) -> None:
    _holds(inside_locust("no_descriptor_left"))


def test_a_run_opens_as_many_connections_as_the_system_lets_it(
    inside_locust: InsideLocust, plain_server: KnownServer
) -> None:
    _holds(inside_locust("a_run_with_few_descriptors", plain_server.rest))


def test_what_is_no_metrics_is_none(inside_locust: InsideLocust) -> None:
    _holds(inside_locust("metrics_that_cannot_be_read"))


def test_a_server_behind_a_shell_is_ended_too(inside_locust: InsideLocust, tmp_path: Path) -> None:
    _holds(inside_locust("a_server_behind_a_shell", str(tmp_path)))
