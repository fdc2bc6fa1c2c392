# SPDX-License-Identifier: Apache-2.0
"""Geometry of the report's charts; `templates/macros.jinja` draws them as SVG."""

import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH = 720  # of a chart; all lengths are in SVG user units


class Bar(NamedTuple):
  """A horizontal bar, drawn from `left`; `value` and `width` are None if unmeasured."""

  label: str
  value: float | None
  css_class: str
  y: float
  text_y: float
  width: float | None
  height: float


class BarChart(NamedTuple):
  """Horizontal bars whose values start at 0."""

  title: str
  width: int
  height: int
  left: float
  bars: Sequence[Bar]


class Tick(NamedTuple):
  """A labelled position on an axis."""

  position: float
  label: str


class LineChart(NamedTuple):
  """A line within `left` and `right`; `points` is the attribute of an SVG polyline."""

  title: str
  width: int
  height: int
  left: float
  right: float
  x_ticks: Sequence[Tick]
  y_ticks: Sequence[Tick]
  points: str


def bar_chart(title: str, values: Sequence[tuple[str, float | None, str]]) -> BarChart:
  """Lay out one bar per (label, value, CSS class), scaled to the largest value."""
  left, right, row_height, gap = 178, 74, 38, 7
  measured = [value for _, value, _ in values if value is not None]
  largest = max(measured, default=1.0) or 1.0
  bars = []
  for row, (label, value, css_class) in enumerate(values):
    top = row * row_height
    width = None
    if value is not None:
      width = round(max(2.0, (WIDTH - left - right) * value / largest), 1)
    bars.append(
      Bar(
        label=label,
        value=value,
        css_class=css_class,
        y=top + gap,
        text_y=top + row_height / 2 + 5,
        width=width,
        height=row_height - 2 * gap,
      )
    )
  return BarChart(title, WIDTH, len(values) * row_height, left, bars)


def line_chart(title: str, points: Sequence[tuple[int, float]]) -> LineChart:
  """Lay out a line through (step, value) points, both axes starting at 0."""
  left, right, top, bottom, height = 56, 30, 12, 30, 230
  last_step = max(step for step, _ in points) or 1
  y_values = round_ticks(max(value for _, value in points))
  x_scale = (WIDTH - left - right) / last_step
  y_scale = (height - top - bottom) / y_values[-1]
  baseline = height - bottom
  return LineChart(
    title=title,
    width=WIDTH,
    height=height,
    left=left,
    right=WIDTH - right,
    x_ticks=[
      Tick(round(left + step * x_scale, 1), f'{step:,.0f}')
      for step in round_ticks(last_step)
      if step <= last_step and step == round(step)
    ],
    y_ticks=[
      Tick(round(baseline - value * y_scale, 1), f'{value:g}') for value in y_values
    ],
    points=' '.join(
      f'{left + step * x_scale:.1f},{baseline - value * y_scale:.1f}'
      for step, value in points
    ),
  )


def round_ticks(largest: float | int) -> list[float]:
  """Return 3 to 7 round, evenly spaced numbers from 0 to at least `largest`.

  [0, 1] if `largest` is not positive.
  """
  if not largest > 0:
    return [0.0, 1.0]
  magnitude = 10.0 ** math.floor(math.log10(largest / 3))
  step = next(
    factor * magnitude
    for factor in (1, 2, 5, 10)
    if largest / (factor * magnitude) <= 5
  )
  return [i * step for i in range(math.ceil(largest / step - 1e-9) + 1)]
