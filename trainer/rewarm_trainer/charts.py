"""Small line charts as SVG text, without a plotting library: a few kilobytes each, coloured by the page's own CSS.

Pure. Decides ticks, scales and where labels stand; never a colour: elements carry classes (`tone-new`, `tone-old`,
`tone-plain`, `tick`, ...), so that one drawing reads well in light, dark and print.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from rewarm_api.quantity import format_tokens

Pair = tuple[float, float]


def format_quantity(value: float) -> str:
    """A count of tokens for an axis: `1.5M`, `20K`, `750`."""
    return format_tokens(round(value))


def format_rate(value: float) -> str:
    """A learning rate as papers write it: `3e-4`, `1.65e-4`, `0`."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def format_percent(value: float) -> str:
    return f"{100 * value:.3g}%"


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) that lie within [low, high]."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else []
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    sizes = [size * power for size in (0.5, 1, 2, 5, 10)]
    place = next(number for number, size in enumerate(sizes) if size >= rough * (1 - 1e-9))
    # Few wide steps may all miss a narrow range; the next smaller one cannot.
    step = sizes[place] if sizes[place] <= high - low else sizes[place - 1]
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def decimals(values: Sequence[float]) -> int:
    """How many decimals tell neighbouring ticks apart."""
    gaps = [abs(second - first) for first, second in pairwise(values) if second != first]
    if not gaps:
        return 2
    return max(0, min(8, math.ceil(-math.log10(min(gaps)) - 1e-9)))


def thin(points: Sequence[Pair], buckets: int) -> list[Pair]:
    """At most four points a bucket (first, lowest, highest, last), so that no spike is lost in a long run."""
    if len(points) <= 4 * buckets:
        return list(points)
    kept: list[Pair] = []
    for bucket in range(buckets):
        part = points[bucket * len(points) // buckets : (bucket + 1) * len(points) // buckets]
        lowest = min(range(len(part)), key=lambda index: part[index][1])
        highest = max(range(len(part)), key=lambda index: part[index][1])
        kept.extend(part[index] for index in sorted({0, lowest, highest, len(part) - 1}))
    return kept


def smooth(points: Sequence[Pair], span: float) -> list[Pair]:
    """Mean over the neighbours within `span` (in units of x), centred; narrower at the ends, so nothing is shifted.

    By distance, not by count: a log is denser at its beginning. Points stand in rising order of x.
    """
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    xs = [x for x, _ in points]
    result = []
    for x in xs:
        reach = min(span / 2, x - xs[0], xs[-1] - x)
        first, last = bisect_left(xs, x - reach), bisect_right(xs, x + reach)
        result.append((x, (sums[last] - sums[first]) / (last - first)))
    return result


@dataclass(frozen=True)
class Line:
    """A curve. tone: CSS class of its colour; style: `solid`, `faint` or `dashed`; dots: mark each point."""

    points: Sequence[Pair]
    tone: str = "tone-plain"
    style: str = "solid"
    dots: bool = False
    label: str = ""


@dataclass(frozen=True)
class Band:
    """A ribbon between two bounds: (x, low, high)."""

    points: Sequence[tuple[float, float, float]]
    tone: str = "tone-plain"


@dataclass(frozen=True)
class Rule:
    """A horizontal reference line across the plot."""

    y: float
    label: str


@dataclass(frozen=True)
class Bracket:
    """A vertical measure at `x` from `y0` to `y1` with a label beside it."""

    x: float
    y0: float
    y1: float
    label: str


@dataclass(frozen=True)
class Chart:
    """What a chart shows. title and description are read aloud; nothing is drawn for a chart without points."""

    key: str
    title: str
    description: str
    lines: Sequence[Line]
    y_label: str
    x_label: str = "tokens"
    bands: Sequence[Band] = ()
    rules: Sequence[Rule] = ()
    brackets: Sequence[Bracket] = ()
    borders: Sequence[float] = ()
    from_zero: bool = False
    format_x: Callable[[float], str] = format_quantity
    format_y: Callable[[float], str] | None = None
    x_range: Pair | None = None


@dataclass(frozen=True)
class _Frame:
    """The plot area in pixels and the data range that it shows."""

    width: int
    height: int
    x: Pair
    y: Pair
    x_ticks: Sequence[float]
    y_ticks: Sequence[float]
    left: int = 52
    right: int = 14
    top: int = 26
    bottom: int = 38

    def at_x(self, value: float) -> float:
        inner = self.width - self.left - self.right
        return self.left + inner * (value - self.x[0]) / (self.x[1] - self.x[0])

    def at_y(self, value: float) -> float:
        inner = self.height - self.top - self.bottom
        return self.top + inner * (1 - (value - self.y[0]) / (self.y[1] - self.y[0]))


def svg(chart: Chart, width: int = 460, height: int = 270) -> str:
    """The chart as one `<svg>` element; empty text when there is nothing finite to draw."""
    frame = _frame(chart, width, height)
    if frame is None:
        return ""
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="{chart.key}-title {chart.key}-desc">',
        f'<title id="{chart.key}-title">{escape(chart.title)}</title>',
        f'<desc id="{chart.key}-desc">{escape(chart.description)}</desc>',
        *_axes(chart, frame),
        f'<clipPath id="{chart.key}-plot"><rect x="{frame.left}" y="{frame.top - 6}" '
        f'width="{width - frame.left - frame.right + 4}" height="{height - frame.top - frame.bottom + 8}"/></clipPath>',
        f'<g clip-path="url(#{chart.key}-plot)">',
        *(_band(band, frame) for band in chart.bands),
        *(_rule_line(rule, frame) for rule in chart.rules),
        *(part for line in chart.lines for part in _line(line, frame)),
        *(_bracket_line(bracket, frame) for bracket in chart.brackets),
        "</g>",
        *_labels(chart, frame),
        "</svg>",
    ]
    return "".join(parts)


def _finite(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _frame(chart: Chart, width: int, height: int) -> _Frame | None:
    shown = chart.x_range or (-math.inf, math.inf)
    points = [point for line in chart.lines for point in line.points if shown[0] <= point[0] <= shown[1]]
    bands = [point for band in chart.bands for point in band.points if shown[0] <= point[0] <= shown[1]]
    xs = _finite(x for x, *_ in [*points, *bands])
    curves = _finite(y for _, y in points)
    if not xs or not curves:
        return None
    curves += [rule.y for rule in chart.rules]
    bounds = _finite(bound for _, low, high in bands for bound in (low, high))
    low, high = min(curves), max(curves)
    room = 2 * (high - low) or math.inf  # a band wider than that leaves the frame instead of flattening the curve
    bottom = min([low, *(max(bound, low - room) for bound in bounds)])
    top = max([high, *(min(bound, high + room) for bound in bounds)])
    x = chart.x_range or (min(0.0, *xs), max(xs))
    if x[1] <= x[0]:
        x = (x[0], x[0] + 1)
    y = _padded(bottom, top, chart.from_zero)
    return _Frame(width, height, x, y, ticks(*x, 5), ticks(*y, 5))


def _padded(low: float, high: float, from_zero: bool) -> Pair:
    if from_zero:
        low = min(0.0, low)
    if high - low < 1e-12 * max(1.0, abs(high)):
        margin = 0.05 * abs(high) or 1.0
        return (low if from_zero and low == 0 < high else low - margin), high + margin
    margin = 0.08 * (high - low)
    return (low if from_zero and low == 0 else low - margin), high + margin


def _axes(chart: Chart, frame: _Frame) -> list[str]:
    digits = decimals(frame.y_ticks)
    format_y = chart.format_y or (lambda value: f"{value:.{digits}f}")
    bottom, right = frame.height - frame.bottom, frame.width - frame.right
    parts = [f'<text class="axis" x="{frame.left}" y="14">{escape(chart.y_label)}</text>']
    for value in frame.y_ticks:
        y = frame.at_y(value)
        parts.append(f'<line class="grid" x1="{frame.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        text = escape(format_y(value))
        parts.append(f'<text class="tick" text-anchor="end" x="{frame.left - 7}" y="{y + 4:.1f}">{text}</text>')
    parts.append(f'<line class="base" x1="{frame.left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    for value in frame.x_ticks:
        x = frame.at_x(value)
        parts.append(f'<line class="base" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        text = escape(chart.format_x(value))
        parts.append(f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{bottom + 17}">{text}</text>')
    label = escape(chart.x_label)
    parts.append(f'<text class="axis" text-anchor="end" x="{right}" y="{frame.height - 5}">{label}</text>')
    for value in chart.borders:
        if frame.x[0] < value < frame.x[1]:
            x = frame.at_x(value)
            parts.append(f'<line class="border" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top}" y2="{bottom}"/>')
    return parts


def _path(points: Sequence[Pair], frame: _Frame) -> str:
    """Path data; a point that is not finite breaks the line instead of joining what it does not know."""
    commands: list[str] = []
    drawing = False
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y)):
            drawing = False
            continue
        commands.append(f"{'L' if drawing else 'M'}{frame.at_x(x):.1f} {frame.at_y(y):.1f}")
        drawing = True
    return "".join(commands)


def _line(line: Line, frame: _Frame) -> list[str]:
    finite = [point for point in line.points if math.isfinite(point[1])]
    shown = thin(line.points, frame.width) if len(finite) == len(line.points) else line.points
    parts = [f'<path class="line {line.tone} {line.style}" d="{_path(shown, frame)}"/>']
    if line.dots or len(finite) == 1:
        parts.extend(
            f'<circle class="dot {line.tone}" cx="{frame.at_x(x):.1f}" cy="{frame.at_y(y):.1f}" r="2.6"/>'
            for x, y in finite
        )
    return parts


def _band(band: Band, frame: _Frame) -> str:
    points = [point for point in band.points if all(math.isfinite(value) for value in point)]
    if not points:
        return ""
    outline = [(x, high) for x, _, high in points] + [(x, low) for x, low, _ in reversed(points)]
    return f'<path class="band {band.tone}" d="{_path(outline, frame)}Z"/>'


def _rule_line(rule: Rule, frame: _Frame) -> str:
    y = frame.at_y(rule.y)
    return f'<line class="rule" x1="{frame.left}" x2="{frame.width - frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _bracket_line(bracket: Bracket, frame: _Frame) -> str:
    x, y0, y1 = frame.at_x(bracket.x), frame.at_y(bracket.y0), frame.at_y(bracket.y1)
    return f'<path class="bracket" d="M{x - 4:.1f} {y0:.1f}h8M{x:.1f} {y0:.1f}V{y1:.1f}M{x - 4:.1f} {y1:.1f}h8"/>'


def _labels(chart: Chart, frame: _Frame) -> list[str]:
    """Words beside what they name: reference lines at the right, measures away from the nearer edge."""
    parts = []
    right = frame.width - frame.right
    for rule in chart.rules:
        y = frame.at_y(rule.y)
        below = _crowded_above(chart, frame, rule.y)
        parts.append(
            f'<text class="note" text-anchor="end" x="{right}" y="{y + (13 if below else -5):.1f}">'
            f"{escape(rule.label)}</text>"
        )
    for bracket in chart.brackets:
        x, y = frame.at_x(bracket.x), frame.at_y(bracket.y1)
        left_half = x < (frame.left + right) / 2
        anchor, offset = ("start", 8) if left_half else ("end", -8)
        parts.append(
            f'<text class="note strong" text-anchor="{anchor}" x="{x + offset:.1f}" y="{y - 1:.1f}">'
            f"{escape(bracket.label)}</text>"
        )
    return parts


def _crowded_above(chart: Chart, frame: _Frame, y: float) -> bool:
    """Whether the curves near the right edge run just above a reference line, where its label would stand."""
    edge = frame.x[0] + 0.55 * (frame.x[1] - frame.x[0])
    near = [value for line in chart.lines for x, value in line.points if x >= edge and math.isfinite(value)]
    above = [value for value in near if value >= y]
    return 2 * len(above) > len(near) or frame.at_y(y) - 16 < frame.top - 6


def interval_svg(mean: float, low: float, high: float, scale: Pair, tone: str, width: int = 260) -> str:
    """A dot with whiskers on a shared scale with a line at zero; decoration of a table row that holds the numbers."""
    inner = width - 16

    def at(value: float) -> float:
        return 8 + inner * (min(max(value, scale[0]), scale[1]) - scale[0]) / (scale[1] - scale[0])

    return (
        f'<svg class="interval" viewBox="0 0 {width} 26" aria-hidden="true">'
        f'<line class="grid" x1="8" x2="{width - 8}" y1="13" y2="13"/>'
        f'<line class="zero" x1="{at(0):.1f}" x2="{at(0):.1f}" y1="2" y2="24"/>'
        f'<line class="whisker {tone}" x1="{at(low):.1f}" x2="{at(high):.1f}" y1="13" y2="13"/>'
        f'<circle class="dot {tone}" cx="{at(mean):.1f}" cy="13" r="4.5"/></svg>'
    )
