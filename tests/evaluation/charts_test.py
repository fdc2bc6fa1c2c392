# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.evaluation.charts import bar_chart, line_chart, round_ticks


@given(st.floats(1e-9, 1e9))
def test_ticks_reach_the_largest_value(largest):
  ticks = round_ticks(largest)
  assert ticks[0] == 0 and ticks[-1] >= largest * (1 - 1e-6)
  assert 3 <= len(ticks) <= 7


@pytest.mark.parametrize('largest', [0.0, -1.0, float('nan')])
def test_ticks_without_positive_values(largest):
  assert round_ticks(largest) == [0, 1]


def test_bars_are_proportional_to_their_values():
  chart = bar_chart('NLL', [('a', 1.0, 'x'), ('b', None, 'y'), ('c', 4.0, 'z')])
  first, unmeasured, last = chart.bars
  assert last.width == pytest.approx(4 * first.width)
  assert unmeasured.width is None
  assert chart.left + last.width < chart.width
  assert last.y + last.height <= chart.height


def test_bars_without_values():
  [unmeasured] = bar_chart('NLL', [('a', None, 'x')]).bars
  [zero] = bar_chart('NLL', [('a', 0.0, 'x')]).bars
  assert unmeasured.width is None and zero.width == 2


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 1e6)), min_size=1))
def test_lines_are_inside_the_chart(points):
  chart = line_chart('loss', points)
  coordinates = [pair.split(',') for pair in chart.points.split()]
  assert len(coordinates) == len(points)
  assert all(chart.left <= float(x) <= chart.right for x, _ in coordinates)
  assert all(0 <= float(y) <= chart.height for _, y in coordinates)
  labels = [tick.label for tick in chart.x_ticks]
  assert len(set(labels)) == len(labels)
