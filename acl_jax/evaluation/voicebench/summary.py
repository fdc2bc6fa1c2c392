# SPDX-License-Identifier: Apache-2.0
"""VoiceBench as a whole: the leaderboard's score, and what is missing for it."""

from collections.abc import Mapping
from typing import Any

from acl_jax.evaluation.voicebench.subsets import (
  JUDGED,
  LEADERBOARD_REGION,
  SUBSETS,
  Subset,
)

# The leaderboard gives each subset from 0 to 100.
SCALES = {'rating': 20.0}


def summarise(tasks: Mapping[str, Any], has_judge: bool) -> dict[str, Any] | None:
  """Return `voicebench` of report.json; None if no subset was evaluated.

  tasks: the `tasks` of report.json. overall: by arm; None where a subset is missing.
  left_out: the subsets that were not evaluated, with the reason.
  """
  entries = {name: tasks.get(subset.task_name) for name, subset in SUBSETS.items()}
  found = {name: entry for name, entry in entries.items() if entry is not None}
  if not found:
    return None
  arms = next(iter(found.values()))['arms']
  return {
    'overall': {
      arm: overall({name: _headline(entry, arm) for name, entry in found.items()})
      for arm in arms
    },
    'left_out': {
      name: _reason(SUBSETS[name], has_judge) for name in entries if name not in found
    },
  }


def overall(values: Mapping[str, float | None]) -> float | None:
  """Return the leaderboard's mean of nine, from 0 to 100; None if one is missing.

  The leaderboard's sd-qa is the mean of the judge and of PEDANT, a trained classifier
  whose verdicts differ by its version; here it is the judge's alone, of one region.
  """
  scores = []
  for name, subset in SUBSETS.items():
    if (value := values.get(name)) is None:
      return None
    scores.append(value * SCALES.get(subset.scored_by, 100.0))
  return sum(scores) / len(scores)


def _headline(entry: Mapping[str, Any], arm: str) -> float | None:
  """Return the headline of a subset; of sd-qa that of the leaderboard's region."""
  metric, groups = entry['metrics'][0], entry['groups']
  arms = groups.get(LEADERBOARD_REGION, entry)['arms']
  return arms.get(arm, {}).get(metric, {}).get('value')


def _reason(subset: Subset, has_judge: bool) -> str:
  if subset.scored_by in JUDGED and not has_judge:
    return 'it needs a judge: --judge_url and --judge_model'
  return 'no row of it was found, or the suite leaves it out'
