# SPDX-License-Identifier: Apache-2.0
"""Geometry of the charts of tasks; `templates/task_macros.jinja` draws them as SVG."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from acl_jax.evaluation.charts import Tick, round_ticks
from acl_jax.evaluation.labels import Scale, arm_label

STRIP_WIDTH = 100


class Measured(NamedTuple):
  """A value and the bounds of its interval, which may be unknown."""

  value: float
  low: float | None
  high: float | None


class Strip(NamedTuple):
  """A value and its interval between 0 and `STRIP_WIDTH`."""

  value: float
  low: float
  high: float


class Whisker(NamedTuple):
  """A labelled bar with its interval; all lengths are in SVG user units."""

  arm: str
  css_class: str
  y: float
  height: float
  width: float
  low: float | None
  high: float | None
  text: str


class BarGroup(NamedTuple):
  """The bars of a group; `y` is where its label stands."""

  label: str
  y: float
  bars: Sequence[Whisker]


class GroupedBars(NamedTuple):
  """Bars of arms by group."""

  title: str
  width: int
  height: float
  left: float
  groups: Sequence[BarGroup]


class CurvePoint(NamedTuple):
  """A point with the bounds of its interval, None if unknown."""

  x: float
  y: float
  low: float | None
  high: float | None


class Curve(NamedTuple):
  """The line of an arm; `label_y` is where its name stands."""

  label: str
  css_class: str
  points: Sequence[CurvePoint]
  path: str  # the attribute of an SVG polyline
  label_y: float


class CurveChart(NamedTuple):
  """Lines of arms over noise levels."""

  title: str
  width: int
  height: int
  left: float
  right: float
  x_ticks: Sequence[Tick]
  y_ticks: Sequence[Tick]
  curves: Sequence[Curve]


def strip(measured: Measured, scale: Scale) -> Strip:
  """Lay out a value and its interval; unknown bounds are where the value is."""
  value, low, high = measured
  ends = (value, value if low is None else low, value if high is None else high)
  return Strip(*(scale.place(end, STRIP_WIDTH) for end in ends))


def grouped_bars(
  title: str, groups: Mapping[str, Mapping[str, Measured]], scale: Scale
) -> GroupedBars:
  """Lay out the bars of each group, one per arm, scaled to the end of the scale."""
  width, left, right, bar_height, gap = 900, 170, 230, 16, 16
  place = functools.partial(scale.place, length=width - left - right)
  rows, y = [], gap / 2
  for label, arms in groups.items():
    bars = []
    for index, (arm, measured) in enumerate(arms.items()):
      name, _, css_class = arm_label(arm)
      bars.append(
        Whisker(
          arm=name,
          css_class=css_class,
          y=y + index * bar_height,
          height=bar_height - 3,
          width=max(1.0, place(measured.value)),
          low=None if measured.low is None else place(measured.low),
          high=None if measured.high is None else place(measured.high),
          text=scale.format(measured.value),
        )
      )
    rows.append(BarGroup(label, y, bars))
    y += len(bars) * bar_height + gap
  return GroupedBars(title, width, y, left, rows)


def curve_chart(
  title: str,
  levels: Sequence[str],
  arms: Mapping[str, Mapping[str, Measured]],
  scale: Scale,
) -> CurveChart:
  """Lay out a line per arm over the levels, which are evenly spaced from the left.

  arms: values by level; levels may be missing.
  """
  width, height, left, right, top, bottom = 490, 250, 58, 140, 14, 32
  ticks = [0, 0.25, 0.5, 0.75, 1] if scale.percent else round_ticks(scale.largest)
  plot_width, plot_height = width - left - right, height - top - bottom
  axis = scale._replace(largest=float(ticks[-1]), smallest=0.0)
  place = functools.partial(axis.place, length=plot_height)
  baseline = height - bottom
  step = plot_width / max(1, len(levels) - 1)
  x_of = {level: round(left + i * step, 1) for i, level in enumerate(levels)}

  def y_of(value: float | None) -> float | None:
    return None if value is None else round(baseline - place(value), 1)

  curves = []
  for arm, values in arms.items():
    points = [
      CurvePoint(
        x_of[level],
        baseline - place(values[level].value),
        y_of(values[level].low),
        y_of(values[level].high),
      )
      for level in levels
      if level in values
    ]
    if points:
      label, _, css_class = arm_label(arm)
      path = ' '.join(f'{point.x:.1f},{point.y:.1f}' for point in points)
      curves.append(Curve(label, css_class, points, path, points[-1].y))
  ends = [curve.label_y for curve in curves]
  label_ys = spread(ends, 17.0, float(top), float(baseline))
  return CurveChart(
    title=title,
    width=width,
    height=height,
    left=left,
    right=left + plot_width,
    x_ticks=[Tick(x, level) for level, x in x_of.items()],
    y_ticks=[
      Tick(
        round(baseline - place(tick), 1),
        f'{tick:.0%}' if scale.percent else f'{tick:g}',
      )
      for tick in ticks
    ],
    curves=[
      curve._replace(label_y=y) for curve, y in zip(curves, label_ys, strict=True)
    ],
  )


def spread(
  positions: Sequence[float], distance: float, low: float, high: float
) -> list[float]:
  """Move positions as little as is simple, so that labels do not overlap.

  They keep their order and are at least `distance` apart; the last is at most `high`
  and, if there is space for all, the first is at least `low`.
  """
  order = sorted(range(len(positions)), key=lambda i: positions[i])
  moved = [0.0] * len(positions)
  previous = low - distance
  for index in order:
    previous = moved[index] = max(positions[index], previous + distance)
  following = high + distance
  for index in reversed(order):
    following = moved[index] = min(moved[index], following - distance)
  return moved
