"""Numbers are read as RapidJSON 1.1.0 reads them; the expected values are its own."""

import struct

import pytest
from glyph_serving.errors import ServingError
from glyph_serving.json_value import parse


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("0.30000000000000004", "3fd3333333333334"),
        ("1e23", "44b52d02c7e14af6"),
        ("2e308", "7ff0000000000000"),
        ("-2e308", "fff0000000000000"),
        ("18446744073709551616", "43f0000000000000"),
        ("-9223372036854775809", "c3e0000000000000"),
        ("0.00000000000000000000000000012345678901234567890", "3a239000987328e8"),
        ("12345678901234567890123.456789e-330", "0008e0a3a2bc301f"),
        ("1e-99999999999999999999999", "0000000000000000"),
        ("-0.0", "8000000000000000"),
    ],
)
def test_numbers_are_rounded_as_rapidjson_does(text: str, bits: str) -> None:
    assert struct.pack(">d", parse(text.encode())).hex() == bits


@pytest.mark.parametrize("number", [0, 2**64 - 1, -(2**63), 2**63])
def test_integers_of_64_bits_are_kept(number: int) -> None:
    assert parse(str(number).encode()) == number
    assert isinstance(parse(str(number).encode()), int)


@pytest.mark.parametrize("text", ["0e400", "0e309", "1e309", "9" * 310, "1" * 5000, "1.5e" + "9" * 5000])
def test_numbers_with_too_many_digits_or_too_large_an_exponent_are_refused(text: str) -> None:
    with pytest.raises(ServingError, match=r"Number too big to be stored in double\. at offset: 1"):
        parse(f"[{text}]".encode())
