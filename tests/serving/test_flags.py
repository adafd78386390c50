"""The command line is read as tensorflow_model_server reads it."""

from typing import Any

import pytest
from glyph_serving import flags
from glyph_serving.flags import FlagError


@pytest.mark.parametrize(
    ("argument", "name", "value"),
    [
        ("--port=1", "port", 1),
        ("--port=-1", "port", -1),
        ("--port=+5", "port", 5),
        ("--port= 5", "port", 5),
        ("--load_retry_interval_micros=99999999999", "load_retry_interval_micros", 99999999999),
        ("--enable_batching", "enable_batching", True),
        ("--enable_batching=true", "enable_batching", True),
        ("--enable_batching=True", "enable_batching", True),
        ("--enable_batching=1", "enable_batching", True),
        ("--enable_model_warmup=false", "enable_model_warmup", False),
        ("--enable_model_warmup=FALSE", "enable_model_warmup", False),
        ("--enable_model_warmup=0", "enable_model_warmup", False),
        ("--model_name=a=b", "model_name", "a=b"),
        ("--model_name=", "model_name", ""),
        ("--per_process_gpu_memory_fraction=1e-1", "per_process_gpu_memory_fraction", 0.1),
    ],
)
def test_values_are_read(argument: str, name: str, value: Any) -> None:
    values, unknown = flags.parse([argument])
    assert getattr(values, name) == value
    assert unknown == []


@pytest.mark.parametrize(
    ("argument", "what"),
    [
        ("--port=abc", "--port takes a whole number of type int32. Received: 'abc'"),
        ("--port=", "--port takes a whole number of type int32. Received: ''"),
        ("--port=1_0", "--port takes a whole number of type int32. Received: '1_0'"),
        ("--port=1.0", "--port takes a whole number of type int32. Received: '1.0'"),
        ("--port=5 ", "--port takes a whole number of type int32. Received: '5 '"),
        ("--port=99999999999", "--port takes a whole number of type int32. Received: '99999999999'"),
        ("--enable_batching=yes", "--enable_batching takes true or false. Received: 'yes'"),
        ("--enable_batching=", "--enable_batching takes true or false. Received: ''"),
        ("--grace_period_seconds=x", "--grace_period_seconds takes a number. Received: 'x'"),
    ],
)
def test_values_of_another_type_are_refused(argument: str, what: str) -> None:
    with pytest.raises(FlagError) as refused:
        flags.parse([argument])
    assert str(refused.value) == what


@pytest.mark.parametrize(
    ("arguments", "unknown"),
    [
        (["--port", "1"], ["--port", "1"]),
        (["--model_name"], ["--model_name"]),
        (["-port=1", "port=1"], ["-port=1", "port=1"]),
        (["--foo=1", "--port=2", "--bar"], ["--foo=1", "--bar"]),
        (["--port=2", "--", "--port=3", "--foo"], ["--", "--port=3", "--foo"]),
    ],
)
def test_what_is_no_flag_is_told_and_changes_nothing(arguments: list[str], unknown: list[str]) -> None:
    values, found = flags.parse(arguments)
    assert found == unknown
    assert values.port in (2, 8500)
    assert values.model_name == "default"
