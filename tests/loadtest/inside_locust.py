"""What the tests look at inside a process that Locust has patched; prefork.py calls these functions, by name."""

import resource
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from unittest import mock

import gevent
import gevent.server
import gevent.socket
import pytest
from glyph_loadtest import cli, metrics, session
from glyph_loadtest.arrival import Arrivals
from glyph_loadtest.channel import TOO_MANY_FILES, CallError, connect
from glyph_loadtest.generator import Generator, _Course
from glyph_loadtest.locustfile import DigitUser
from glyph_loadtest.plan import Job, Plan
from glyph_loadtest.servers import command, free_ports, running
from glyph_loadtest.session import Session, session_of
from glyph_loadtest.shapes import SHAPES
from glyph_loadtest.target import Target, parse_address
from locust import events
from locust.argument_parser import parse_options
from locust.env import Environment

_PATIENCE = 5.0  # seconds


def _target(text: str) -> Target:
    return Target(*parse_address(text))


def _environment(host: str, *options: str) -> Environment:
    """What `locust -f locustfile.py` has made before it makes the runner."""
    parsed: Namespace = parse_options(["--headless", *options])
    return Environment(user_classes=[DigitUser], events=events, host=host, parsed_options=parsed)


def _set_up(environment: Environment) -> None:
    runner = environment.create_local_runner()
    events.init.fire(environment=environment, runner=runner, web_ui=None)


def _await_users(environment: Environment, count: int) -> None:
    with gevent.Timeout(_PATIENCE, AssertionError(f"{environment.runner.user_count} users, not {count}")):
        while environment.runner.user_count != count:
            gevent.sleep(0.01)


def the_session_of_a_start_before_init(host: str) -> None:
    """Locust tells a worker that joins a running test to start as soon as it is there."""
    environment = _environment(host)
    start = gevent.spawn(events.test_start.fire, environment=environment)
    gevent.sleep(0.05)
    _set_up(environment)
    start.join(_PATIENCE)
    assert session_of(environment) is not None


def a_user_without_a_session() -> None:
    """It ends, and says so: the test looks at the log."""
    environment = _environment("ftp://x")
    environment.create_local_runner()
    with pytest.raises(gevent.GreenletExit):
        DigitUser(environment).on_start()


def the_first_timer() -> None:
    """Locust's `--run-time`: a timer that is set after the imports, in which gevent has not looked at the clock."""
    gevent.get_hub().loop.update_now()
    imported = perf_counter() + 0.5
    while perf_counter() < imported:
        pass
    _set_up(_environment("localhost:1"))
    start = perf_counter()
    timer = gevent.spawn_later(0.2, perf_counter)
    timer.join(_PATIENCE)
    assert timer.value - start >= 0.19, timer.value - start


def the_way_down_from_a_spike() -> None:
    """Locust takes users away at the rate that the shape names."""
    plan = Plan(10, seconds=10, shape=SHAPES["spike"])
    users, rate = _Course(plan, first=round(time.time()) - 7).tick()
    assert (users, rate) == (2, 10.0)


def an_open_loops_user_that_is_taken_away(host: str) -> None:
    """It leaves at once, however long it would be until its next request."""
    environment = _environment(host, "--rate=0.01")
    _set_up(environment)
    for users in (2, 1):
        environment.runner.start(users, spawn_rate=2)
        _await_users(environment, users)
    environment.runner.quit()


def the_phases_of_an_open_loops_users() -> None:
    """They take turns, rather than all to send at the same time."""
    with mock.patch.object(session, "due_times", return_value=iter(())) as due_times:
        source = Session(Environment(), Job(_target("localhost:1"), rate=1, arrivals=Arrivals.CONSTANT))
        for _ in range(4):
            source.keep_schedule(lambda: False)
    phases = sorted(call.args[2] for call in due_times.call_args_list)
    around = [*phases, phases[0] + 1]
    assert min(later - sooner for sooner, later in pairwise(around)) > 0.1, phases


def a_run_in_which_the_clock_is_set(host: str, step: str) -> None:
    """It lasts as long as it should, and all of it counts."""
    stepped, real = 0.0, time.time

    def progress(*_: object) -> None:
        nonlocal stepped
        stepped = float(step)

    def clock() -> float:
        return real() + stepped

    with mock.patch.object(time, "time", clock), Generator() as generator:
        start = perf_counter()
        run = generator.run(_target(host), Plan(20, seconds=3, warm_up=0, arrivals=Arrivals.CONSTANT), progress)
        lasted = perf_counter() - start
    assert run.end - run.first == 3
    assert 3 <= lasted < 3 + _PATIENCE, lasted
    assert run.measurement.between(run.first, run.end).latency.count == 60
    assert len([second for second in run.measurement.seconds.values() if second.finished]) <= 4
    assert len([second for second in run.measurement.seconds.values() if second.cpu]) <= 6


def no_descriptor_left() -> None:
    """What this process is short of is not the server's failure."""
    server = gevent.server.StreamServer(("127.0.0.1", 0), lambda *_: None)
    server.start()
    address = _target(f"127.0.0.1:{server.server_port}").address
    connect(address, 1, "h2").close()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))
    with pytest.raises(CallError, match=TOO_MANY_FILES):
        connect(address, 1, "h2")


def a_run_with_few_descriptors(host: str) -> int:
    """The command takes as many as it may have."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, most))
    return cli.main(["run", host, "--users=60", "--time=1s", "--warm-up=0s"])


@contextmanager
def _web_server(*parts: bytes) -> Iterator[str]:
    """The URL of a server that sends these parts, with a little time in between, and hangs up."""

    def answer(sock: gevent.socket.socket, _: object) -> None:
        sock.recv(65_536)
        for part in parts:
            sock.sendall(part)
            gevent.sleep(0.02)

    server = gevent.server.StreamServer(("127.0.0.1", 0), answer)
    server.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.stop()


_HEAD = b"HTTP/1.1 200 OK\r\n"


def metrics_that_cannot_be_read() -> None:
    """Whatever listens on the port where metrics are by convention, the run goes on."""
    cut = _HEAD + b"Content-Length: 100\r\n\r\nabc"
    trickle = [_HEAD, *[b"x"] * 500]
    for parts in ([b"\0\0\x12\4\0\0\0\0\0" + bytes(18)], [cut], trickle):
        with _web_server(*parts) as url, mock.patch.object(metrics, "_PATIENCE", 0.3):
            start = perf_counter()
            assert metrics.scrape(url) is None, parts
            assert perf_counter() - start < _PATIENCE


def a_server_behind_a_shell(folder: str) -> None:
    """It ends with the shell that has started it, though that passes no signal on."""
    pid = Path(folder) / "pid"
    server = command(f"sh -c '\"$@\" & echo $! > {pid}; wait' sh {sys.executable} {_KNOWN_SERVER}")
    ports = free_ports()
    with running(server, _target(f"localhost:{ports.grpc}"), server.arguments(ports, None, []), Path(folder) / "log"):
        child = int(pid.read_text())
        assert _runs(child)
    with gevent.Timeout(_PATIENCE, AssertionError("the server still runs")):
        while _runs(child):
            gevent.sleep(0.01)


_KNOWN_SERVER = Path(__file__).with_name("known_server.py")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
