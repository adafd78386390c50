"""The digits that RapidJSON prints of a number: the fewest that tell it from others, but not always the nearest such.

It is F. Loitsch's algorithm Grisu2 ("Printing floating-point numbers quickly and accurately with integers", PLDI 2010),
which trades the last digit's exactness for 64-bit arithmetic; with one slip of RapidJSON 1.1.0 from the tenth place on.
"""

import math

_BITS = 64
_SIGNIFICAND_BITS = 53
_LEAST_EXPONENT = -1074  # of two, of the last bit of a double
_FIRST_POWER, _POWER_STEP = -348, 8  # of ten, in RapidJSON's table
_HIGHEST_EXPONENT = -61  # of two, of a product with one of them
_EXACT_PLACES = 9  # behind the point, where the distance to the number is still looked at


def digits_of(number: float) -> tuple[str, int]:
    """The digits of a finite number above 0, and the power of ten of the last one."""
    exponent = max(math.frexp(number)[1] - _SIGNIFICAND_BITS, _LEAST_EXPONENT)
    significand = int(math.ldexp(number, -exponent))
    shift = _BITS - significand.bit_length()
    # Twice the number and its middles to both neighbours; the lower neighbour of a power of two is nearer.
    upper, lower = (2 * significand + 1) << (shift - 1), (2 * significand - 1) << (shift - 1)
    if significand == 1 << (_SIGNIFICAND_BITS - 1):
        lower = (4 * significand - 1) << (shift - 2)

    wanted = math.ceil((_HIGHEST_EXPONENT - exponent + shift) * 0.30102999566398114 - _FIRST_POWER - 1)
    power = _FIRST_POWER + (wanted // _POWER_STEP + 1) * _POWER_STEP
    factor, factor_exponent = _power_of_ten(power)
    upper, lower = _product(upper, factor) - 1, _product(lower, factor) + 1
    distance = upper - _product(significand << shift, factor)
    point = -(exponent - shift + factor_exponent + _BITS)  # so many bits stand behind it

    room = upper - lower
    whole, fraction = upper >> point, upper & ((1 << point) - 1)
    digits = ""
    for place in range(len(str(whole)) - 1, -1, -1):
        unit = 10**place
        digits = (digits + str(whole // unit % 10)).lstrip("0")
        rest = (whole % unit << point) + fraction
        if rest <= room:
            return _nearest(digits, room, rest, unit << point, distance), place - power
    place = 0
    while True:
        fraction, room, place = 10 * fraction, 10 * room, place - 1
        digits = (digits + str(fraction >> point)).lstrip("0")
        fraction &= (1 << point) - 1
        if fraction < room:
            scaled = distance * 10**-place if -place < _EXACT_PLACES else 0
            return _nearest(digits, room, fraction, 1 << point, scaled), place - power


def _nearest(digits: str, room: int, rest: int, unit: int, distance: int) -> str:
    """The digits with the last one lowered as long as that brings them nearer to the number."""
    last = int(digits[-1])
    while (
        rest < distance and room - rest >= unit and (rest + unit < distance or distance - rest > rest + unit - distance)
    ):
        last -= 1
        rest += unit
    return f"{digits[:-1]}{last}"


def _power_of_ten(power: int) -> tuple[int, int]:
    """A power of ten as 64 bits and their exponent of two, rounded to the nearest."""
    if power < 0:
        divisor = 10**-power
        exponent = -(divisor.bit_length() + _BITS - 1)
        return ((2 << -exponent) // divisor + 1) // 2, exponent
    exponent = (10**power).bit_length() - _BITS
    return (10**power << -exponent if exponent < 0 else ((10**power << 1 >> exponent) + 1) >> 1), exponent


def _product(one: int, other: int) -> int:
    """The upper 64 bits of a product, rounded."""
    return (one * other + (1 << (_BITS - 1))) >> _BITS
