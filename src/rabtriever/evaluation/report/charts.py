"""The page's charts: SVG with a text alternative, in colours that the style sheet chooses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element

from rabtriever.evaluation.report.markup import element

COLOURS = 6  # of systems, in the style sheet; further ones use them again
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 40  # margins
LEAST_MS = 1e-3  # on a logarithmic axis
LABEL, LINE = 80, 13  # size of a system's name


class Plot:
    """A chart's frame: maps values to its inside, draws axes, collects marks.

    Args:
        width: Of the drawing, in its own units.
        height: Likewise.
        x: Least and greatest value across.
        y: Least and greatest value upwards.
        log: Whether x is logarithmic.
    """

    def __init__(
        self, width: int, height: int, x: tuple[float, float], y: tuple[float, float], log: bool = False
    ) -> None:
        self.width, self.height, self._log = width, height, log
        self._x, self._y = (math.log10(x[0]), math.log10(x[1])) if log else x, y
        self.marks: list[Element] = []

    def x(self, value: float) -> float:
        """Returns where a value lies across."""
        value, (low, high) = math.log10(value) if self._log else value, self._x
        return round(LEFT + (value - low) / (high - low) * (self.width - LEFT - RIGHT), 2)

    def y(self, value: float) -> float:
        """Returns where a value lies from the top."""
        low, high = self._y
        return round(self.height - BOTTOM - (value - low) / (high - low) * (self.height - TOP - BOTTOM), 2)

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """Draws a line between values."""
        ends = {"x1": self.x(x1), "y1": self.y(y1), "x2": self.x(x2), "y2": self.y(y2)}
        self.marks.append(element("line", class_=kind, **ends))

    def text(self, x: float, y: float, text: str, kind: str, anchor: str = "middle") -> None:
        """Writes at a place, not a value."""
        self.marks.append(element("text", text, x=x, y=y, class_=kind, text_anchor=anchor))

    def axes(self, x: tuple[str, Sequence[float]], y: tuple[str, Sequence[float]]) -> None:
        """Draws the frame, with a name and ticks of each axis."""
        (x_name, x_ticks), (y_name, y_ticks) = x, y
        bottom, right = self.height - BOTTOM, self.width - RIGHT
        for tick in y_ticks:
            at = self.y(tick)
            self.marks.append(element("line", class_="grid", x1=LEFT, y1=at, x2=right, y2=at))
            self.text(LEFT - 6, at + 4, f"{tick:g}", "tick", "end")
        for tick in x_ticks:
            at = self.x(tick)
            self.marks.append(element("line", class_="grid", x1=at, y1=TOP, x2=at, y2=bottom))
            self.text(at, bottom + 15, f"{tick:g}", "tick")
        self.text((LEFT + right) / 2, self.height - 6, x_name, "axis")
        place = f"translate(11 {(TOP + bottom) / 2}) rotate(-90)"
        self.marks.append(
            element("text", y_name, class_="axis", text_anchor="middle", transform=place),
        )

    def svg(self, title: str, description: str) -> Element:
        """Returns the drawing with its text alternative."""
        return element(
            "svg",
            element("title", title),
            element("desc", description),
            self.marks,
            viewBox=f"0 0 {self.width} {self.height}",
            role="img",
            aria_label=f"{title}. {description}",
        )


def quality_chart(systems: dict[str, Any], measure: str) -> Element:
    """Draws a measure against milliseconds, both with their intervals."""
    points = {name: (one["ms_per_query"], one["measures"][measure]) for name, one in systems.items()}
    times = [max(t, LEAST_MS) for ms, _ in points.values() for t in (*ms["interval"], ms["value"])]
    values = [v for _, quality in points.values() for v in quality["interval"]]
    ticks = y_ticks(min(values), max(values))
    plot = Plot(380, 280, (min(times) / 1.5, max(times) * 1.5), (ticks[0], ticks[-1]), log=True)
    plot.axes(("ms per query", log_ticks(min(times) / 1.5, max(times) * 1.5)), (measure, ticks))
    places = [(plot.x(max(ms["value"], LEAST_MS)), plot.y(quality["value"])) for ms, quality in points.values()]
    taken: list[tuple[float, float]] = []
    for number, (name, (ms, quality)) in enumerate(points.items()):
        colour, t, v = f"s{number % COLOURS}", max(ms["value"], LEAST_MS), quality["value"]
        plot.line(t, quality["interval"][0], t, quality["interval"][1], f"bar {colour}")
        plot.line(max(ms["interval"][0], LEAST_MS), v, max(ms["interval"][1], LEAST_MS), v, f"bar {colour}")
        plot.marks.append(element("circle", class_=f"dot {colour}", cx=plot.x(t), cy=plot.y(v), r=4.5))
        x, y = places[number]
        crowded = any(0 < other - x < LABEL and abs(height - y) < LINE for other, height in places)
        left = x > LEFT + LABEL and (crowded or x > plot.width - RIGHT - LABEL)
        start, y = x - LABEL if left else x, y - 7
        while any(abs(start - other) < LABEL and abs(y - height) < LINE for other, height in taken):
            y -= LINE
        taken.append((start, y))
        plot.text(x + (-8 if left else 8), y, name, f"label {colour}", "end" if left else "start")
    described = (f"{name}: {quality['value']:.3f} in {ms['value']:.2g} ms" for name, (ms, quality) in points.items())
    return plot.svg(f"{measure} against milliseconds per query", "; ".join(described))


def reliability_chart(name: str, number: int, found: dict[str, Any]) -> Element:
    """Draws how many first hits are relevant against how probable they are called."""
    plot, ticks, colour = Plot(260, 260, (0, 1), (0, 1)), (0, 0.25, 0.5, 0.75, 1), f"s{number % COLOURS}"
    plot.axes(("probability of the first hit", ticks), ("share relevant", ticks))
    plot.line(0, 0, 1, 1, "diagonal")
    for one in found["bins"]:
        p, share = one["mean_probability"], one["share_relevant"]
        plot.line(p, one["interval"][0], p, one["interval"][1], f"bar {colour}")
        radius = round(2.5 + 6 * math.sqrt(one["n"] / found["n"]), 1)
        plot.marks.append(element("circle", class_=f"dot {colour}", cx=plot.x(p), cy=plot.y(share), r=radius))
    described = (f"{b['mean_probability']:.2f}: {b['share_relevant']:.2f} of {b['n']}" for b in found["bins"])
    return plot.svg(f"Reliability of {name}", "Mean probability: share relevant. " + "; ".join(described))


def log_odds_chart(pairs: Sequence[dict[str, Any]], pearson: float | None) -> Element:
    """Draws the student's log-odds against the teacher's; relevant pairs are squares."""
    xs, ys = ([pair[side] for pair in pairs] for side in ("teacher", "student"))
    x_ticks, y_axis = ticks_of(min(xs), max(xs)), ticks_of(min(ys), max(ys))
    plot = Plot(380, 280, (x_ticks[0], x_ticks[-1]), (y_axis[0], y_axis[-1]))
    plot.axes(("teacher's log-odds", x_ticks), ("student's log-odds", y_axis))
    for pair in pairs:
        x, y = plot.x(pair["teacher"]), plot.y(pair["student"])
        if pair["relevant"]:
            plot.marks.append(element("rect", class_="pair relevant", x=x - 3, y=y - 3, width=6, height=6))
        else:
            plot.marks.append(element("circle", class_="pair", cx=x, cy=y, r=2.5))
    shown = "undefined" if pearson is None else f"{pearson:.3f}"
    return plot.svg("Log-odds of student and teacher", f"{len(pairs)} pairs; Pearson correlation {shown}")


def ticks_of(low: float, high: float, n: int = 5) -> list[float]:
    """Returns round numbers that enclose a range, about ``n``."""
    span = max(high - low, 1e-6) / n
    power: float = 10.0 ** math.floor(math.log10(span))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= span)
    first, last = math.floor(low / step + 1e-9), max(math.ceil(high / step - 1e-9), math.floor(low / step + 1e-9) + 1)
    return [round(step * i, 10) for i in range(first, last + 1)]


def y_ticks(low: float, high: float) -> list[float]:
    """Returns ticks of a measure, which lies in [0, 1]."""
    margin = max(0.05, (high - low) * 0.1)
    return ticks_of(max(0.0, low - margin), min(1.0, high + margin))


def log_ticks(low: float, high: float) -> list[float]:
    """Returns 1, 2 and 5 times powers of ten within a range, or of a wide one the powers alone."""
    powers = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    ticks = [factor * power for power in powers for factor in (1, 2, 5) if low <= factor * power <= high]
    return ticks if len(ticks) <= 7 else [tick for tick in ticks if tick in powers]
