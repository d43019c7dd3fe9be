"""Numbers as a reader of the report sees them; the exact ones are in statistics.json."""

from __future__ import annotations

THIN = "\u202f"
MISSING = "–"
POWER_OF_TEN = f"{THIN}×{THIN}10"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def count(value: int) -> str:
    """A whole number in groups of three."""
    return f"{value:,}".replace(",", THIN)


def significant(value: float | None, digits: int = 4) -> str:
    """A number with this many significant digits; very large and small ones with a power of ten."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    power = int(exponent)
    if not -4 <= power < 7:
        return f"{mantissa.replace('-', '−')}{POWER_OF_TEN}{str(power).translate(SUPERSCRIPTS)}"
    text = f"{value:,.{max(0, digits - 1 - power)}f}"
    return text.replace(",", THIN).replace("-", "−")


def plus_minus(mean: float, deviation: float) -> str:
    """A mean with four significant digits and its deviation with as many decimals."""
    text = significant(mean)
    if POWER_OF_TEN in text:
        return f"{text} ± {significant(deviation)}"
    decimals = len(text.partition(".")[2])
    return f"{text} ± {deviation:,.{decimals}f}".replace(",", THIN)


def signed(value: float, decimals: int = 2) -> str:
    """A difference with its sign."""
    return f"{value:+.{decimals}f}".replace("-", "−")


def position(um: float) -> str:
    """A coordinate, without decimals that say nothing."""
    text = significant(um)
    return text.rstrip("0").rstrip(".") if "." in text else text


def length(um: float) -> str:
    """A round length with its unit, as beside a scale bar."""
    for unit, size in (("m", 1e6), ("cm", 1e4), ("mm", 1e3), ("µm", 1.0)):
        if um >= size:
            return f"{um / size:g}{THIN}{unit}"
    return f"{um * 1e3:g}{THIN}nm"


def volume(um3: float) -> str:
    """A volume with the unit that keeps the number short."""
    for unit, size in (("cm³", 1e12), ("mm³", 1e9)):
        if um3 >= 0.1 * size:
            return f"{significant(um3 / size)}{THIN}{unit}"
    return f"{significant(um3)}{THIN}µm³"


def size(count: int | None) -> str:
    """Bytes with the unit that keeps the number short."""
    if count is None:
        return MISSING
    for unit, each in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= each:
            return f"{significant(count / each, 3)}{THIN}{unit}"
    return f"{count}{THIN}bytes"


def duration(seconds: float) -> str:
    """Seconds, or minutes and hours where there are many."""
    if seconds < 100:
        return f"{significant(seconds, 3)}{THIN}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{THIN}h {minutes:02}{THIN}min" if hours else f"{minutes}{THIN}min {rest:02}{THIN}s"
