"""Numbers as people read them."""

from vicuna.hardware import GIB

_WORDS = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


def count(number: float) -> str:
    """A count: 1,234 stays, 1,234,567 is 1.23 million."""
    for unit, word in _WORDS:
        if number >= 0.9995 * unit:  # rounded to three digits it is at least one
            return f"{number / unit:.3g} {word}"
    return f"{number:,.0f}"


def size(held: float) -> str:
    """Bytes, in the units in which memory is sold and reported."""
    return f"{held / GIB:.1f} GiB" if held >= GIB / 10 else f"{held / 2**20:.1f} MiB"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03, or 2:03 below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
