# SPDX-License-Identifier: Apache-2.0
"""The groups of a task: noise curves where they have levels, bars otherwise."""

import re
from collections.abc import Mapping
from typing import Any

from acl_jax.evaluation.labels import (
  Scale,
  describe_metric,
  order_arms,
  sentence_case,
)
from acl_jax.evaluation.task_charts import (
  CurveChart,
  GroupedBars,
  Measured,
  curve_chart,
  grouped_bars,
)

GUARDS = ('shuffled_audio', 'no_audio')
CLEAN = 'clean'
KEYS = ('value', 'low', 'high')  # of an interval
_NOISE = re.compile(r'(.*?)_?(-?\d+)_?dB', re.IGNORECASE | re.DOTALL)


def measured(part: Mapping[str, Any], arm: str, metric: str) -> Measured | None:
  """Return what an arm of a task or group measured; None if it did not."""
  entry = ((part.get('arms') or {}).get(arm) or {}).get(metric)
  if not entry:
    return None
  value, low, high = (to_float(entry.get(key)) for key in KEYS)
  return None if value is None else Measured(value, low, high)


def to_float(value: float | int | None) -> float | None:
  """Return a number of JSON, which may be an integer, as a float."""
  return None if value is None else float(value)


def parse_noise(group: str) -> tuple[str, int] | None:
  """Return the kind of noise and its level in dB of a group; None without a level."""
  match = _NOISE.fullmatch(group)
  return (match[1], int(match[2])) if match else None


def group_label(group: str) -> str:
  """Return the name of a group on the page."""
  if (noise := parse_noise(group)) is not None:
    group = f'{noise[0]} {noise[1]} dB'.strip()
  return group.replace('_', ' ').replace('/', ', ') or '(no group)'


def _clean_groups(kind: str) -> list[str]:
  """Return what the group without this noise may be called, such as 'exact/clean'."""
  before = kind.rpartition('/')[0]
  return [*([f'{before}/{CLEAN}'] if before else []), kind, CLEAN]


def make_charts(
  task: Mapping[str, Any], groups: Mapping[str, Any], metric: str, scale: Scale
) -> tuple[GroupedBars | None, list[CurveChart]]:
  """Return bars of the groups without a level, and a chart per kind of noise."""
  arms = [arm for arm in order_arms(task.get('arms') or {}) if arm not in GUARDS]
  kinds: dict[str, dict[int, str]] = {}
  for group in groups:
    if (noise := parse_noise(group)) is not None:
      kinds.setdefault(noise[0], {})[noise[1]] = group
  curves, drawn = [], set()
  for kind, levels in kinds.items():
    clean = next((group for group in _clean_groups(kind) if group in groups), None)
    if len(levels) + (clean is not None) < 2:
      continue
    names = {} if clean is None else {CLEAN: clean}
    names |= {f'{level} dB': levels[level] for level in sorted(levels, reverse=True)}
    drawn |= set(levels.values())
    values = {
      arm: {
        label: value
        for label, group in names.items()
        if (value := measured(groups[group], arm, metric)) is not None
      }
      for arm in arms
    }
    name = group_label(kind) if kind else 'noise'
    title = f'{sentence_case(name)}: {describe_metric(metric)}'
    curves.append(curve_chart(title, list(names), values, scale))
  rest = {
    group_label(group): {
      arm: value for arm in arms if (value := measured(part, arm, metric)) is not None
    }
    for group, part in groups.items()
    if group not in drawn
  }
  rest = {label: values for label, values in rest.items() if values}
  if len(rest) < 2 and not curves:
    return None, curves
  title = f'{sentence_case(describe_metric(metric))} by group'
  return (grouped_bars(title, rest, scale) if rest else None), curves
