# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.evaluation.labels import Scale, metric_label, scale_of, task_label
from acl_jax.evaluation.task_charts import Measured, curve_chart, grouped_bars, spread
from acl_jax.evaluation.task_groups import group_label, parse_noise
from acl_jax.evaluation.task_views import outcome

SHARES = Scale(True, 1.0)


@given(st.lists(st.floats(-50, 300), max_size=9))
def test_labels_do_not_overlap(positions):
  moved = spread(positions, 17.0, 14.0, 218.0)
  pairs = sorted(zip(moved, positions, strict=True))
  gaps = [b[0] - a[0] for a, b in zip(pairs, pairs[1:], strict=False)]
  assert all(gap >= 17 - 1e-9 for gap in gaps)
  assert all(y <= 218 for y in moved)


def test_points_are_over_their_level_and_none_is_invented():
  arms = {
    'audio': {'clean': Measured(1.0, 0.5, 1.0), '0 dB': Measured(0.5, None, None)}
  }
  chart = curve_chart('babble', ['clean', '20 dB', '0 dB'], arms, SHARES)
  [curve] = chart.curves
  xs = {tick.label: tick.position for tick in chart.x_ticks}
  assert [point.x for point in curve.points] == [xs['clean'], xs['0 dB']]
  assert xs['clean'] == chart.left and xs['0 dB'] == chart.right
  ys = {tick.label: tick.position for tick in chart.y_ticks}
  assert [point.y for point in curve.points] == [ys['100%'], ys['50%']]
  assert curve.points[0].low == ys['50%'] and curve.points[1].low is None


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=5))
def test_bars_are_inside_the_chart(values):
  scale = scale_of('bleu', values)
  groups = {f'g{i}': {'audio': Measured(v, None, None)} for i, v in enumerate(values)}
  chart = grouped_bars('BLEU', groups, scale)
  for group in chart.groups:
    for bar in group.bars:
      assert 0 < chart.left + bar.width < chart.width
      assert 0 <= bar.y and bar.y + bar.height <= chart.height


@pytest.mark.parametrize(
  'metric, values, value, text, difference',
  [
    ('exact_match', [0, 1], 0.625, '62.5%', '+62.5'),
    ('bleu', [0.4], 0.4, '40.0%', '+40.0'),
    ('bleu', [31.25], 31.25, '31.2', '+31.2'),
    ('length_ratio', [0.9], 0.9, '0.900', '+0.900'),
    ('log_likelihood', [-3.5], -3.5, '−3.500', '−3.500'),
    ('exact_match', [], None, '–', '–'),
  ],
)
def test_values_are_written_on_their_scale(metric, values, value, text, difference):
  scale = scale_of(metric, values)
  assert scale.format(value) == text
  assert scale.format_difference(value) == difference


def test_groups_with_a_level_of_noise():
  assert parse_noise('babble_20db') == ('babble', 20)
  assert parse_noise('exact/babble_-5db') == ('exact/babble', -5)
  assert parse_noise('10db') == ('', 10)
  assert parse_noise('mp3_16kbit') is None
  assert group_label('exact/babble_5db') == 'exact, babble 5 dB'


def test_unknown_names_are_readable():
  assert task_label('voicebench_sd_qa') == 'VoiceBench: sd qa'
  assert task_label('robustness_spoken_qa') == 'Robustness: spoken questions'
  assert task_label('my_task') == 'My task'
  assert metric_label('my_score') == 'my score'


def test_outcomes_follow_the_direction_of_the_metric():
  told = 'can be told from chance'
  assert outcome('exact_match', 0.1, told) == 'better'
  assert outcome('exact_match', -0.1, told) == 'worse'
  assert outcome('entity_error_rate', 0.1, told) == 'worse'
  assert outcome('exact_match', 0.1, f'not {told}') == 'even'
