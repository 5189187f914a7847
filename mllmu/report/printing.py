"""How the report prints: numbers, intervals, times and lists of names as a reader expects them, and CSV files."""

import csv
import io
import math
from collections.abc import Iterable, Mapping

from mllmu.core.csvrows import harmless
from mllmu.core.declared import Format, MetricInfo

DASH = "–"


def finite(value: float | None) -> float | None:
    """The value, or None if it is missing or not finite."""
    return value if value is not None and math.isfinite(value) else None


def show(value: float | None, style: Format = "percent", decimals: int = 3) -> str:
    """A number as papers print it; a missing one is a dash.

    >>> show(0.517), show(0.6451, "decimal"), show(-0.05, "signed"), show(0.0004, "p_value"), show(None), show(-0.0003)
    ('51.7', '0.645', '-5.0', '<0.001', '–', '0.0')
    """
    number = finite(value)
    if number is None:
        return DASH
    if style == "percent":
        return fixed(100 * number, 1)
    if style == "signed":
        return f"{100 * number:+.1f}" if round(1000 * number) else "0.0"
    if style == "p_value":
        return "<0.001" if number < 0.001 else f"{number:.3f}"
    return fixed(number, decimals)


def fixed(number: float, decimals: int) -> str:
    """A number with so many decimals; what is rounded to zero has no sign.

    >>> fixed(-0.04, 1), fixed(-0.06, 1)
    ('0.0', '-0.1')
    """
    return f"{number:z.{decimals}f}"


def show_span(low: float | None, high: float | None, style: Format = "percent", decimals: int = 3) -> str:
    """The bounds of an interval, with fewer digits than the number; empty if they are unknown.

    >>> show_span(0.25, 0.75), show_span(0.25, 0.75, "decimal"), show_span(-0.1, 0.05, "signed"), show_span(None, 1.0)
    ('25–75', '0.25–0.75', '-10 to 5', '')
    """
    bounds = [bound for bound in (finite(low), finite(high)) if bound is not None]
    if len(bounds) < 2:
        return ""
    if style in ("decimal", "p_value"):
        texts = [fixed(bound, min(decimals, 2)) for bound in bounds]
    else:
        texts = [str(round(100 * bound)) for bound in bounds]
    return (" to " if any(text.startswith("-") for text in texts) else DASH).join(texts)


def style_of(metric: MetricInfo) -> tuple[Format, int]:
    """How the values of a metric are printed."""
    return ("percent" if metric.percent else "decimal"), metric.decimals


def duration(seconds: float | None) -> str:
    """Seconds as a reader says them.

    >>> duration(7.25), duration(605), duration(7320), duration(None)
    ('7.2 s', '10 min 05 s', '2 h 02 min', '–')
    """
    if seconds is None or not math.isfinite(seconds):
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def listing(names: Iterable[str]) -> str:
    """Names as English prose; of more than six, the first five and how many others.

    >>> listing(["ga"]), listing(["ga", "npo", "kl"])
    ('ga', 'ga, npo and kl')
    """
    *head, last = names
    if len(head) > 5:
        head, last = head[:5], f"{len(head) - 4} others"
    return f"{', '.join(head)} and {last}" if head else last


def csv_of(head: Iterable[str], rows: Iterable[Mapping[str, object]]) -> str:
    """A CSV file of rows with equal keys: numbers with six digits, truth as yes or no, None empty, harmless text."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([csv_cell(value) for value in row.values()] for row in rows)
    return out.getvalue()


def csv_cell(value: object) -> str:
    """One value as text.

    >>> csv_cell(None), csv_cell(True), csv_cell(0.5), csv_cell(7.82e-19), csv_cell("=cmd()")
    ('', 'yes', '0.500000', '7.82000e-19', "'=cmd()")
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        text = f"{value:.6f}"
        return text if abs(value) >= 0.1 or math.isclose(float(text), value, rel_tol=1e-6) else f"{value:#.6g}"
    return harmless(str(value).replace("\r\n", "\n").replace("\r", "\n"))  # the writer does not quote a lone \r
