"""What glyph-serve refuses before it loads anything, in one line that says what to do."""

import json
import os
import socket
import subprocess
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.conftest import Certificates

DIGITS = Path(__file__).parent.parent / "conformance" / "models" / "digits"
GLYPH_SERVE = Path(sysconfig.get_path("scripts")) / "glyph-serve"
# Root may read everything, unless it is told apart from itself.
MERE_USER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


@pytest.fixture
def ending(free_ports: Callable[[int], list[int]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Starts glyph-serve with flags with which it ends, and with 255; what it says."""

    def start(*flags: str, by: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        grpc, rest = free_ports(2)
        usual = ["--address=127.0.0.1", f"--port={grpc}", f"--rest_api_port={rest}", "--model_name=digits"]
        done = subprocess.run(
            [*by, GLYPH_SERVE, *usual, "--file_system_poll_wait_seconds=0", *flags],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 255
        assert "Traceback" not in done.stderr
        return done

    return start


@pytest.fixture
def refusal(ending: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., str]:
    """Starts glyph-serve with flags that it must refuse; what it says on stderr."""
    return lambda *flags, **how: ending(*flags, **how).stderr


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


@pytest.mark.parametrize("barred", ["", "model"])
def test_a_base_path_that_may_not_be_read_is_named(refusal: Callable[..., str], tmp_path: Path, barred: str) -> None:
    base_path = tmp_path / "models" / "model"
    base_path.mkdir(parents=True)
    (tmp_path / "models" / barred).chmod(0)
    said = refusal(f"--model_base_path={base_path}", by=MERE_USER)
    (tmp_path / "models" / barred).chmod(0o700)
    assert f"error: the base path {base_path} of model digits cannot be read: Permission denied. Let this user" in said


@pytest.mark.parametrize(
    "flag", ["--workers=2", "--ssl_config_file=/x", "--rest_ssl_config_file=/x", "--log_format=text"]
)
def test_where_no_temporary_file_can_be_written_tmpdir_is_named(
    refusal: Callable[..., str], tmp_path: Path, flag: str
) -> None:
    compiler = tmp_path / "gcc"  # by which a library is looked for, with a temporary file
    compiler.write_text("#!/bin/sh")
    compiler.chmod(0o700)
    path = f"PATH={tmp_path}:{os.environ['PATH']}"
    said = refusal(f"--model_base_path={DIGITS}", flag, by=["sh", "-c", 'ulimit -f 0; exec env "$@"', "sh", path])
    assert "No usable temporary directory found in [" in said
    assert said.endswith(". Set TMPDIR to a folder that can be written to\n")


@pytest.mark.parametrize(("name", "problem"), [("none/x", "No such file or directory"), ("", "Is a directory")])
def test_an_access_log_that_cannot_be_written_to_is_named(
    refusal: Callable[..., str], tmp_path: Path, name: str, problem: str
) -> None:
    said = refusal(f"--model_base_path={DIGITS}", f"--access_log_file={tmp_path / name}")
    assert f"error: cannot write to {tmp_path / name} (--access_log_file): {problem}\n" in said


def test_an_encrypted_key_is_refused(refusal: Callable[..., str], tmp_path: Path, certificates: Certificates) -> None:
    key, pair = tmp_path / "key.pem", tmp_path / "ssl.config"
    encrypt = ["openssl", "pkey", "-aes256", "-passout", "pass:secret"]
    subprocess.run([*encrypt, "-in", str(certificates.key), "-out", str(key)], check=True, timeout=60)
    pair.write_text(f"server_key: {quoted(key)} server_cert: {quoted(certificates.certificate)}")
    said = refusal(f"--model_base_path={DIGITS}", f"--ssl_config_file={pair}")
    assert f"the server_key in {pair} is encrypted: it must be one without a passphrase" in said


def test_an_authority_that_is_too_long_is_refused(
    refusal: Callable[..., str], tmp_path: Path, certificates: Certificates
) -> None:
    many, pair = tmp_path / "many.pem", tmp_path / "ssl.config"
    many.write_text(certificates.authority.read_text() * 200)
    pair.write_text(
        f"server_key: {quoted(certificates.key)} server_cert: {quoted(certificates.certificate)} "
        f"custom_ca: {quoted(many)} client_verify: true"
    )
    said = refusal(f"--model_base_path={DIGITS}", f"--ssl_config_file={pair}")
    assert f"the custom_ca in {pair} is too long: {many.stat().st_size} bytes, where 131000 may be" in said


def quoted(file: Path) -> str:
    return json.dumps(file.read_text())


def test_origins_without_effect_are_told(refusal: Callable[..., str], tmp_path: Path) -> None:
    said = refusal(f"--model_base_path={tmp_path}", "--rest_api_cors_origins=https://digits.example")
    assert "warning: --rest_api_cors_origins has no effect without --rest_api_enable_cors_support" in said


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


CANNOT_LISTEN = "Failed to start server. Error: INVALID_ARGUMENT: Failed to BuildAndStart gRPC server\n"


def test_a_port_for_grpc_that_cannot_be_had_is_told_as_the_genuine_server_does(
    ending: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = ending(f"--model_base_path={DIGITS}", "--port=-1")
    assert done.stdout == CANNOT_LISTEN
    assert "--port must lie between 0 and 65535. Received: -1" in done.stderr


def test_a_socket_that_cannot_be_had_is_told_and_a_file_in_its_place_is_kept(
    ending: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    for path, problem in ((tmp_path / "none" / "x", "No such file"), (tmp_path / "file", "Address already in use")):
        done = ending(f"--model_base_path={DIGITS}", f"--grpc_socket_path={path}")
        assert done.stdout == CANNOT_LISTEN
        assert f"cannot listen on {path} (--grpc_socket_path): {problem}" in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_certificates_that_cannot_be_used_are_told_as_the_genuine_server_does(
    ending: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "ssl.config").write_text('server_key: "k" server_cert: "c"')
    assert ending(f"--model_base_path={DIGITS}", f"--ssl_config_file={tmp_path / 'ssl.config'}").stdout == CANNOT_LISTEN


def test_certificates_for_rest_are_not_taken_for_those_of_grpc(
    ending: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "ssl.config").write_text('server_key: "k" server_cert: "c"')
    done = ending(f"--model_base_path={DIGITS}", f"--rest_ssl_config_file={tmp_path / 'ssl.config'}")
    assert done.stdout == "Failed to start server. Error: INVALID_ARGUMENT: Failed to start HTTP server\n"


def test_the_first_of_the_unknown_arguments_is_told_with_the_usage(
    ending: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = ending("--foo=1", "--help", "--model_base_path", str(tmp_path))
    assert done.stdout.startswith("unknown argument: --foo=1\nusage: glyph-serve\nFlags:\n")
    assert done.stdout.count("unknown argument") == 1
    assert "Both server_options.model_base_path and server_options.model_config_file are empty!" in done.stdout
    assert "--model_base_path is no flag of this server, or has no =value, and is ignored" in done.stderr


def test_help_is_the_usage_alone(ending: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert ending("--help").stdout.startswith("usage: glyph-serve\nFlags:\n")
