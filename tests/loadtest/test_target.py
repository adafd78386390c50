"""What a target may look like."""

import pytest
from glyph_loadtest.channel import Address
from glyph_loadtest.metrics import metrics_url
from glyph_loadtest.target import Target, TargetError, parse_address


@pytest.mark.parametrize(
    ("text", "address", "rest"),
    [
        ("localhost:8500", Address("localhost", 8500), False),
        ("localhost", Address("localhost", 8500), False),
        ("grpc://digits:9000", Address("digits", 9000), False),
        ("grpcs://digits:443", Address("digits", 443, tls=True), False),
        ("http://localhost", Address("localhost", 8501), True),
        ("http://127.0.0.1:80/", Address("127.0.0.1", 80), True),
        ("https://digits.example", Address("digits.example", 443, tls=True), True),
    ],
)
def test_the_scheme_says_the_protocol(text: str, address: Address, rest: bool) -> None:
    assert parse_address(text) == (address, rest)


@pytest.mark.parametrize(
    "text", ["", "ftp://localhost:21", "localhost:port", "localhost:99999", "http://host/v1/models"]
)
def test_anything_else_is_refused_with_what_was_received(text: str) -> None:
    with pytest.raises(TargetError, match="Received: " + repr(text)):
        parse_address(text)


def test_an_ipv6_address_keeps_its_brackets() -> None:
    address, rest = parse_address("grpc://[::1]:8500")
    assert address == Address("::1", 8500)
    target = Target(address, rest)
    assert str(target) == "grpc://[::1]:8500"
    assert metrics_url(target) == "http://[::1]:8501/monitoring/prometheus/metrics"
