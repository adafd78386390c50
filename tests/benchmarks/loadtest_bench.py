"""How much load one core produces: `glyph-load` over gRPC and REST, and stock Locust's HttpUser, in the same run.

The server is an echo (loadtest_echo.py, run by pyvoy), and what counts is requests for each second of the generator's
own processor time, for on a small machine the echo, not the generator, sets the pace. Three rounds, taking turns; the
median counts. Exits with 1 when a bar is missed.

    python tests/benchmarks/loadtest_bench.py [--json]
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HERE = Path(__file__).parent
_SECONDS, _ROUNDS, _USERS = 2, 3, 32
_GRPC_BAR, _REST_BAR, _RATIO_BAR = 7000.0, 5000.0, 3.0

_STOCK = """
from time import process_time
from locust import HttpUser, constant, events, task

class Stock(HttpUser):
    wait_time = constant(0)

    @task
    def predict(self):
        self.client.post("/v1/models/digits:predict", data=BODY, headers={"Content-Type": "application/json"})

@events.test_start.add_listener
def start(environment, **_):
    environment.used = process_time()

@events.test_stop.add_listener
def stop(environment, **_):
    print("RESULT", environment.stats.total.num_requests / (process_time() - environment.used), flush=True)
"""


@contextmanager
def _echo() -> Iterator[str]:
    command = [str(Path(sys.executable).parent / "pyvoy"), "loadtest_echo:app", "--port", "0", "--log-level", "off"]
    with subprocess.Popen(command, cwd=_HERE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            listening = re.search(r"([0-9.]+:\d+)", process.stderr.readline())
            assert listening, "pyvoy did not start"
            yield listening[1]
        finally:
            process.terminate()


def _glyph(target: str) -> float:
    command = [sys.executable, "-m", "glyph_loadtest.cli", "run", target, "--json"]
    command += ["--users", str(_USERS), "--time", f"{_SECONDS}s"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    result = json.loads(done.stdout)
    answered = sum(
        second["finished"] for second in result["measurement"]["seconds"] if second["time"] >= result["window"][0]
    )
    used = sum(
        sum(second["cpu"].values())
        for second in result["measurement"]["seconds"]
        if result["window"][0] <= second["time"] < result["window"][1]
    )
    return float(answered / used)


def _stock(address: str) -> float:
    image = [[[0]] * 28] * 28
    body = json.dumps({"signature_name": "serving_default", "instances": [image]}, separators=(",", ":"))
    with tempfile.TemporaryDirectory() as folder:
        locustfile = Path(folder) / "locustfile.py"
        locustfile.write_text(f"BODY = {body!r}\n{_STOCK}")
        command = [sys.executable, "-m", "locust", "-f", str(locustfile), "--headless", "--only-summary"]
        command += ["-u", str(_USERS), "-r", str(_USERS), "-t", f"{_SECONDS + 1}s", "--host", f"http://{address}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ))
    found = re.search(r"RESULT ([0-9.]+)", done.stdout)
    assert found, done.stderr
    return float(found[1])


def main() -> int:
    """Measures, prints, and judges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with _echo() as address:
        rounds = [(_glyph(address), _glyph(f"http://{address}"), _stock(address)) for _ in range(_ROUNDS)]
    grpc, rest, stock = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(one[1] / one[2] for one in rounds)
    bars = [
        ("gRPC requests a core and second", grpc, _GRPC_BAR),
        ("REST requests a core and second", rest, _REST_BAR),
        ("REST, times stock HttpUser", ratio, _RATIO_BAR),
    ]
    if options.json:
        figures = [{"name": name, "value": value, "bar": bar} for name, value, bar in bars]
        print(json.dumps({"figures": figures, "stock_http_user": stock}))
    else:
        for name, value, bar in bars:
            print(f"{name:<34}{value:>12,.2f}   bar {bar:>8,.0f}   {'met' if value >= bar else 'MISSED'}")
        print(f"{'stock HttpUser, a core and second':<34}{stock:>12,.2f}")
    return 0 if all(value >= bar for _, value, bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
