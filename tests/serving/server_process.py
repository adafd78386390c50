"""A real glyph-serve for tests: started, waited for, asked, stopped."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

GLYPH_SERVE = Path(sys.executable).parent / "glyph-serve"
START_SECONDS = 120.0


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nothing listens."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


class ServerProcess:
    """A glyph-serve on free ports of 127.0.0.1.

    Args:
        *flags: Its flags besides the ports and the address.
        log: Where its stdout and stderr go.
        environment: Variables to set.
        start: Whether to start it now, with those flags and its own ports; ``launch`` does it otherwise.
    """

    process: subprocess.Popen[bytes]

    def __init__(self, *flags: str, log: Path, environment: dict[str, str] | None = None, start: bool = True) -> None:
        self.grpc_port, self.rest_port = free_ports(2)
        self.log = log
        self._environment = {**os.environ, **(environment or {})}
        if start:
            self.launch(f"--port={self.grpc_port}", f"--rest_api_port={self.rest_port}", *flags)

    def launch(self, *flags: str) -> None:
        """Starts it with these flags and the address."""
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [str(GLYPH_SERVE), "--address=127.0.0.1", *flags],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
            )

    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    def wait_for(self, pattern: str, timeout: float = START_SECONDS) -> re.Match[str]:
        """Waits until it has printed something."""
        deadline = time.monotonic() + timeout
        while not (match := re.search(pattern, self.text())):
            if self.process.poll() is not None:
                raise AssertionError(f"glyph-serve ended with {self.process.returncode}:\n{self.text()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{pattern!r} did not appear in {timeout:g} s:\n{self.text()}")
            time.sleep(0.02)
        return match

    def wait_until_ready(self) -> "ServerProcess":
        """Waits for the line that says that it is ready."""
        self.wait_for(r"glyph-serve: ready: .*\n")
        return self

    def stop(self, with_signal: int = signal.SIGTERM, timeout: float = 30) -> int:
        """Ends it, if it still runs, and gives its exit code."""
        try:
            if self.process.poll() is None:
                self.process.send_signal(with_signal)
            return self.process.wait(timeout)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
