# SPDX-License-Identifier: Apache-2.0
"""The program `plan`: its flags, its errors, and the plans of an earlier run."""

import json
import re
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


@pytest.mark.full
@pytest.mark.parametrize(
  'name, names_in_error',
  [
    ('v5e-12', 'v5e-12: .* v5e .*v5litepod-1, '),
    ('h100', 'h100: .* v5litepod-16 or v6e:4x4'),
  ],
)
def test_a_wrong_topology_is_an_error_in_one_line(name, names_in_error):
  completed = run('--config=configs/llama2_7b_mls.py', f'--topology={name}')
  assert completed.returncode == 1
  [line] = completed.stderr.splitlines()
  assert re.search(names_in_error, line)


@pytest.fixture
def planned(monkeypatch):
  """Requests that reached a planner which neither counts nor compiles."""
  requests = []

  def make_plan(request, counted):
    requests.append(request)
    return {
      'topology': str(request.slice),
      'question': request.fingerprint,
      **PLAN,
    }

  monkeypatch.setattr(report, 'make_plan', make_plan)
  monkeypatch.setattr(flops, 'count_step_flops', lambda config, step: None)
  return requests


def make_request(**changes):
  return PlanRequest(tiny_config(), parse_slice('v5e-4'), **changes)


def silent_console():
  return Console(quiet=True)


def test_stored_plans_are_not_made_again(tmp_path, planned):
  output = tmp_path / 'plans.jsonl'
  slices = [parse_slice(name) for name in ('v5e-4', 'v5p-8')]
  planner = plan.Planner(silent_console(), output)
  first = list(plan.make_plans(make_request(), slices, False, planner))
  assert [p['topology'] for p in first] == ['v5e:2x2', 'v5p:2x2x1']
  assert [json.loads(line) for line in output.read_text().splitlines()] == first
  slices.append(parse_slice('v6e-4'))
  planner = plan.Planner(silent_console(), output)
  again = list(plan.make_plans(make_request(), slices, False, planner))
  assert again[:2] == first and len(planned) == 3
  assert len(output.read_text().splitlines()) == 3


def test_another_request_is_planned_anew(tmp_path, planned):
  output = tmp_path / 'plans.jsonl'
  plan.Planner(silent_console(), output)(make_request())
  plan.Planner(silent_console(), output)(make_request(rows_per_chip=7))
  assert len(planned) == 2


@pytest.mark.parametrize('text', ['{', '[1]', '{"topology": "v5e:4x4"}'])
def test_an_output_that_holds_no_plans_is_not_overwritten(tmp_path, text):
  output = tmp_path / 'plans.jsonl'
  output.write_text(text)
  with pytest.raises(ValueError, match='plans.jsonl'):
    plan.Planner(silent_console(), output)
  assert output.read_text() == text
