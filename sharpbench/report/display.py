"""Numbers as text for people: as many digits as the error supports, a dash where there is no number."""

from __future__ import annotations

import math

DASH = "–"


def measured(value: float, error: float = math.nan, separator: str = " ± ") -> str:
    """A value with its error, both cut at the error's second digit; three digits without an error.

    >>> measured(920.72, 57.4), measured(0.013335, 0.00398), measured(1.234e7, 2.5e5), measured(0.5)
    ('921 ± 57', '0.0133 ± 0.0040', '1.234e7 ± 0.025e7', '0.500')
    """
    if not math.isfinite(value):
        return DASH
    if not (math.isfinite(error) and error > 0):
        return short(value)
    largest = max(abs(value), error)
    if 1e-3 <= largest < 1e6:
        places = max(0, _digits_after_point(error))
        return f"{value:.{places}f}{separator}{error:.{places}f}"
    power = math.floor(math.log10(largest))
    places = max(0, _digits_after_point(error / 10.0**power))
    scaled = (f"{number / 10.0**power:.{places}f}e{power}" for number in (value, error))
    return separator.join(scaled)


def _digits_after_point(error: float) -> int:
    return min(12, 1 - math.floor(math.log10(error)))


def short(value: float) -> str:
    """Three significant digits.

    >>> short(1234567.0), short(921.4), short(0.01234), short(-0.5), short(0.0), short(math.nan)
    ('1.23e6', '921', '0.0123', '-0.500', '0', '–')
    """
    if not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    power = math.floor(math.log10(abs(float(f"{value:.2e}"))))
    if -4 <= power < 5:
        return f"{value:.{max(0, 2 - power)}f}"
    return f"{value / 10.0**power:.2f}e{power}"


def fixed(value: float, places: int = 2) -> str:
    """A fixed number of places.

    >>> fixed(98.2081), fixed(math.nan)
    ('98.21', '–')
    """
    return f"{value:.{places}f}" if math.isfinite(value) else DASH


def signed(value: float, places: int = 2) -> str:
    """With its sign; what rounds to zero has none.

    >>> signed(1.634), signed(-0.5), signed(0.001)
    ('+1.63', '−0.50', '0.00')
    """
    if not math.isfinite(value):
        return DASH
    text = f"{value:+.{places}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def interval(low: float, high: float, places: int = 2) -> str:
    """``[low, high]``, or a dash where there is none.

    >>> interval(0.54, 2.72), interval(math.nan, math.nan)
    ('[+0.54, +2.72]', '–')
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return DASH
    return f"[{signed(low, places)}, {signed(high, places)}]"


def p_value(p: float) -> str:
    """Three places, never "0.000".

    >>> p_value(0.0287), p_value(0.00001), p_value(1.0), p_value(math.nan)
    ('0.029', '<0.001', '1', '–')
    """
    if not math.isfinite(p):
        return DASH
    if p < 0.001:
        return "<0.001"
    return "1" if p > 0.9995 else f"{p:.3f}"


def plus_minus(value: float, half_width: float, places: int = 2) -> str:
    """A mean with the half-width of its interval, or the mean alone.

    >>> plus_minus(98.208, 1.2698), plus_minus(98.208, math.nan)
    ('98.21 ± 1.27', '98.21')
    """
    if not math.isfinite(half_width):
        return fixed(value, places)
    return f"{fixed(value, places)} ± {fixed(half_width, places)}"


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun.

    >>> count(1, "run"), count(3, "run"), count(2, "data set", "data sets")
    ('1 run', '3 runs', '2 data sets')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def listing(words: list[str], most: int = 6) -> str:
    """``a, b and c``, shortened when long.

    >>> listing(["a"]), listing(["a", "b", "c"]), listing(list("abcdefgh"), most=3)
    ('a', 'a, b and c', 'a, b, c and 5 more')
    """
    if len(words) > most + 1:
        return f"{', '.join(words[:most])} and {len(words) - most} more"
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else DASH
