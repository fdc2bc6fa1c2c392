# SPDX-License-Identifier: Apache-2.0
import dataclasses

import pytest

from acl_jax.evaluation.runner import TaskResult
from acl_jax.evaluation.task_summary import (
  complete_cases,
  format_tasks,
  score_answers,
  summarise_task,
)
from acl_jax.evaluation.tasks.task import Answer, Case


class Lengths:
  """A task that counts characters: a mean, and a share of what is expected."""

  name, metrics, binary = 'lengths', ('share', 'length'), False
  signature, left_out = 'v1', ('COMET: it is not installed',)

  def applies(self, entry):
    return True

  def parse(self, entry, folder):
    return []

  def expected_from(self, case, text_answer):
    return dataclasses.replace(case, expected=case.expected or text_answer.text)

  def score(self, case, answer):
    return {'length': float(len(answer.text))}

  def pool(self, cases, answers):
    said = sum(len(answer.text) for answer in answers)
    return {'share': said / sum(len(case.expected) for case in cases)}


def make_result():
  cases = [Case(f'{i}', (), 5, group='xy'[i % 2]) for i in range(6)]
  text = [Answer('a' * (i + 1)) for i in range(6)]
  return TaskResult(cases, {'text': text, 'audio': [Answer('a')] * 6})


def test_means_pooled_metrics_groups_and_comparisons():
  task = Lengths()
  result = complete_cases(task, make_result())
  assert [case.expected for case in result.cases] == ['a' * (i + 1) for i in range(6)]
  summary = summarise_task(task, result, score_answers(task, result))
  text, audio = summary['arms']['text'], summary['arms']['audio']
  assert text['length']['value'] == 3.5
  assert text['share'] == {'value': 1, 'low': 1, 'high': 1}
  assert audio['share']['value'] == pytest.approx(6 / 21)
  assert audio['share']['low'] < 6 / 21 < audio['share']['high']
  groups = summary['groups']
  assert {name: group['cases'] for name, group in groups.items()} == {'x': 3, 'y': 3}
  assert groups['x']['arms']['audio']['share']['value'] == pytest.approx(3 / 9)
  [(pair, compared)] = summary['comparisons'].items()
  assert (pair, compared['metric']) == ('audio - text', 'share')
  assert compared['difference']['value'] == pytest.approx(6 / 21 - 1)
  assert compared['mcnemar_p'] is compared['kappa'] is None
  assert compared['verdict'] == 'can be told from chance'
  assert summary['signature'] == 'v1' and summary['left_out'] == [*task.left_out]
  assert 'lengths: share, 6 cases\n' in format_tasks({'lengths': summary})


def test_cases_of_a_line_are_drawn_together():
  result = make_result()
  cases = [dataclasses.replace(c, line=f'{i // 3}') for i, c in enumerate(result.cases)]
  task, lines = Lengths(), dataclasses.replace(result, cases=cases)
  summaries = []
  for each in (result, lines):
    each = complete_cases(task, each)
    summaries.append(summarise_task(task, each, score_answers(task, each)))
  assert [summary['lines'] for summary in summaries] == [6, 2]
  assert '6 cases of 2 lines' in format_tasks({'lengths': summaries[1]})
  # Two draws of two lines are 1 2 3 1 2 3, 1 2 3 4 5 6 or 4 5 6 4 5 6.
  length = summaries[1]['arms']['text']['length']
  assert (length['low'], length['high']) == (2, 5)
  share = summaries[1]['arms']['audio']['share']
  assert (share['low'], share['high']) == pytest.approx((3 / 15, 3 / 6))
  difference = summaries[1]['comparisons']['audio - text']['difference']
  assert difference['low'] == pytest.approx(3 / 15 - 1)
