# SPDX-License-Identifier: Apache-2.0
"""The program: its flags, its errors, and what it keeps of an earlier run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from acl_jax import plan
from acl_jax.tpu.planning import flops, report
from acl_jax.tpu.planning.report import PlanRequest
from acl_jax.tpu.slices import parse_slice
from tests.tiny_plan import tiny_config

ROOT = Path(__file__).parent.parent


ESTIMATE = {
  'step_seconds': 1.5,
  'llm_tokens_per_second': 8.0,
  'audio_hours_per_second': 0.25,
  'dollars_per_1000_audio_hours': None,
}
PLAN = {
  'chips': 4,
  'mesh': {'fsdp': 4},
  'llm': None,
  'remat': 'dots',
  'rows_per_chip': 2.0,
  'llm_tokens_per_chip': 256.0,
  'compile_seconds': 3.0,
  'hbm_bytes_per_chip': 9,
  'hbm_capacity_bytes': 10,
  'fits': True,
  'collectives': {},
  'flops_per_llm_token_over_n': None,
  'estimate': ESTIMATE,
}


def run(*arguments):
  command = [sys.executable, '-m', 'acl_jax.plan', *arguments]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
  'name, message',
  [
    ('v5e-12', 'v5e-12: the names for v5e are v5litepod-1, '),
    ('h100', 'h100: a TPU is written like v5litepod-16 or v6e:4x4'),
  ],
)
def test_a_topology_that_is_none_ends_in_one_sentence(name, message):
  ended = run('--config=configs/llama2_7b_mls.py', f'--topology={name}')
  assert ended.returncode == 1
  assert message in ended.stderr and len(ended.stderr.splitlines()) == 1


@pytest.fixture
def answers(monkeypatch):
  """Instead of counting and compiling."""
  made = []

  def answer(question, counted):
    made.append(question)
    return {
      'topology': str(question.slice),
      'question': question.fingerprint,
      **PLAN,
    }

  monkeypatch.setattr(report, 'make_plan', answer)
  monkeypatch.setattr(flops, 'of_step', lambda config, step: None)
  return made


def question(**changes):
  return PlanRequest(tiny_config(), parse_slice('v5e-4'), **changes)


def silent():
  return Console(quiet=True)


def test_plans_are_kept_and_not_made_again(tmp_path, answers):
  output = tmp_path / 'plans.jsonl'
  slices = [parse_slice(name) for name in ('v5e-4', 'v5p-8')]
  first = list(
    plan.make_plans(question(), slices, False, plan.Planner(silent(), output))
  )
  assert [p['topology'] for p in first] == ['v5e:2x2', 'v5p:2x2x1']
  assert [json.loads(line) for line in output.read_text().splitlines()] == first
  slices.append(parse_slice('v6e-4'))
  again = list(
    plan.make_plans(question(), slices, False, plan.Planner(silent(), output))
  )
  assert again[:2] == first and len(answers) == 3
  assert len(output.read_text().splitlines()) == 3


def test_another_question_is_answered_anew(tmp_path, answers):
  output = tmp_path / 'plans.jsonl'
  plan.Planner(silent(), output)(question())
  plan.Planner(silent(), output)(question(rows_per_chip=7))
  assert len(answers) == 2


@pytest.mark.parametrize('text', ['{', '[1]', '{"topology": "v5e:4x4"}'])
def test_an_output_that_is_something_else_is_not_written_to(tmp_path, text):
  output = tmp_path / 'plans.jsonl'
  output.write_text(text)
  with pytest.raises(ValueError, match='not the plans of an earlier run; remove it'):
    plan.Planner(silent(), output)
  assert output.read_text() == text
