"""What glyph-serve refuses before it loads anything, in one line that says what to do."""

import socket
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

DIGITS = Path(__file__).parent.parent / "conformance" / "models" / "digits"
GLYPH_SERVE = Path(sysconfig.get_path("scripts")) / "glyph-serve"


@pytest.fixture
def refusal(free_ports: Callable[[int], list[int]]) -> Callable[..., str]:
    """Starts glyph-serve with flags that it must refuse; what it says on stderr."""

    def start(*flags: str) -> str:
        grpc, rest = free_ports(2)
        usual = ["--address=127.0.0.1", f"--port={grpc}", f"--rest_api_port={rest}", "--model_name=digits"]
        done = subprocess.run(
            [GLYPH_SERVE, *usual, "--file_system_poll_wait_seconds=0", *flags],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 255
        assert "Traceback" not in done.stderr
        return done.stderr

    return start


@pytest.mark.parametrize("flag", ["port", "rest_api_port"])
def test_a_taken_port_is_named(refusal: Callable[..., str], flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal(f"--{flag}={port}", f"--model_base_path={DIGITS}")
    assert f"error: port {port} on 127.0.0.1 is already taken. Free it, or choose another --{flag}" in said


def test_a_missing_base_path_is_named(refusal: Callable[..., str], tmp_path: Path) -> None:
    said = refusal(f"--model_base_path={tmp_path / 'nowhere'}")
    assert f"the base path {tmp_path / 'nowhere'} of model digits does not exist: publish one as" in said


def test_a_base_path_without_versions_is_named(refusal: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "not-a-number").mkdir()
    said = refusal(f"--model_base_path={tmp_path}")
    assert f"no versions of model digits under {tmp_path} (folders named by a number): publish one as" in said


def test_looking_for_versions_less_often_than_never_is_refused(refusal: Callable[..., str]) -> None:
    said = refusal(f"--model_base_path={DIGITS}", "--file_system_poll_wait_seconds=-1")
    assert "--file_system_poll_wait_seconds must be 0 (look once) or more. Received: -1" in said


@pytest.mark.parametrize("flag", ["ssl_config_file", "rest_ssl_config_file"])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('server_cert: "c"', "has no server_key: it must hold the PEM text itself"),
        (
            'server_key: "/etc/key.pem" server_cert: "/etc/cert.pem"',
            "server_key, server_cert or custom_ca cannot be used",
        ),
        ('server_key: "k" server_cert: "c" client_verify: true', "asks for client_verify but has no custom_ca"),
    ],
)
def test_unusable_certificates_are_named(
    refusal: Callable[..., str], tmp_path: Path, flag: str, content: str, problem: str
) -> None:
    (tmp_path / "ssl.config").write_text(content)
    said = refusal(f"--model_base_path={DIGITS}", f"--{flag}={tmp_path / 'ssl.config'}")
    assert f"{tmp_path / 'ssl.config'}" in said
    assert problem in said


def test_a_flag_without_effect_is_told(refusal: Callable[..., str], tmp_path: Path) -> None:
    said = refusal(f"--model_base_path={tmp_path}", "--enable_profiler=false")
    assert "warning: --enable_profiler has no effect: the profiler service is not part of this server" in said
