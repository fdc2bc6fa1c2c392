# SPDX-License-Identifier: Apache-2.0
"""The launcher's output, errors and calls of other tools."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from tests.launch import goldens

pytestmark = pytest.mark.full

ROOT = Path(__file__).parent.parent.parent
REMOTE = ['--config=configs/smol.py', '--workdir=/gcs/speech/runs/7b']
GKE = [*REMOTE, '--platform=gke', '--tpu=v5e:4x4', '--image=gcr.io/mine/acl_jax']
TPU_VM = [*REMOTE, '--platform=tpu_vm', '--tpu=v5e:4x4', '--zone=us-east5-b']
SWEEP = '--sweep=response.peak_lr=1e-4,3e-4'


def launch(
  *arguments: str, env: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, 'launch/xm.py', *arguments],
    cwd=ROOT,
    env={**env, 'PYTHONPATH': str(ROOT)},
    text=True,
    capture_output=True,
  )


def test_dry_run_for_a_cluster():
  arguments = [*GKE, SWEEP, '--dry_run', '--', "--config.data.train=/gcs/b.c/it's"]
  completed = launch(*arguments)
  assert (completed.returncode, completed.stderr) == (0, '')
  goldens.check('sweep.yaml', completed.stdout)
  assert len(list(yaml.safe_load_all(completed.stdout))) == 2


def test_dry_run_on_this_machine():
  arguments = ['--config=configs/smol.py', '--workdir=runs/a b', '--processes=2']
  completed = launch(*arguments, SWEEP, '--dry_run')
  assert (completed.returncode, completed.stderr) == (0, '')
  first, second = map(shlex.split, completed.stdout.splitlines())
  assert first == [
    '/usr/bin/env',
    'PYTHONUNBUFFERED=1',
    sys.executable,
    '-m',
    'launch.local',
    '--processes=2',
    '--max_restarts=100',
    '--',
    sys.executable,
    '-m',
    'acl_jax.train',
    '--config=configs/smol.py',
    '--workdir=runs/a b/response.peak_lr=1e-4',
    '--config.response.peak_lr=1e-4',
  ]
  assert '--workdir=runs/a b/response.peak_lr=3e-4' in second


def test_kubectl_gets_the_output_of_a_dry_run(tools):
  tools.add(tools.folder / 'kubectl')
  (tools.folder / 'kubectl').write_text('#!/bin/bash\necho "$@"; cat')
  completed = launch(*GKE, env=tools.environment())
  assert completed.returncode == 0, completed.stderr
  assert completed.stdout == 'apply --filename=-\n' + launch(*GKE, '--dry_run').stdout


def test_gcloud_is_called_for_each_work_unit(tools):
  completed = launch(*TPU_VM, SWEEP, env=tools.environment())
  assert completed.returncode == 0, completed.stderr
  created = [call[5] for call in tools.calls() if 'create' in call]
  assert created == ['run-7b-1', 'run-7b-2']


def test_a_failing_tool_is_reported_with_its_own_error(tools):
  (tools.folder / 'kubectl').write_text('#!/bin/bash\necho forbidden >&2; exit 7')
  completed = launch(*GKE, env=tools.environment())
  assert completed.returncode == 1
  assert re.fullmatch('forbidden\nerror: kubectl .* 7\n', completed.stderr)


LOCAL = ['--config=configs/smol.py', '--workdir=runs/a']


@pytest.mark.parametrize(
  'arguments, pattern',
  [
    ([*LOCAL, '--tpu=v5e-16'], '--tpu .* --platform=local'),
    ([*GKE, '--processes=2'], '--processes .* --platform=gke'),
    (GKE[:-1], '--image .* --platform=gke'),
    (TPU_VM[:-1], '--zone .* --platform=tpu_vm'),
    ([*GKE, '--tpu=v5e-3'], 'v5e-3: .* v5e .*v5litepod-1, v5litepod-4'),
    ([*TPU_VM, '--tpu=tpu7x-8'], '--tpu: .* v2, v3, v4, v5e, v5p'),
    ([*GKE, '--workdir=gs://b/x'], '--workdir=gs://b/x: .*/gcs/BUCKET/folder'),
    ([*GKE, '--config=/x/y.py'], '/x/y.py'),
    ([*GKE, f'--config={ROOT}/configs/smol.py'], '--config=.*/smol.py: .*repository'),
    ([*GKE, '--num_slices=2', '--tpu=v6e:2x2'], '--num_slices=2: 2x2'),
    ([*GKE, '--tpu=v3-32'], '--tpu: .* v3'),
    (
      [*LOCAL, '--sweep=response.peak_lrr=1'],
      'peak_lrr .* peak_lr',
    ),
    ([*LOCAL, '--program=chat'], 'flag --program=chat: value should be one of'),
    ([*LOCAL, '--num_slices=0'], 'flag --num_slices=0'),
    (['--workdir=runs/a'], '--config is missing'),
  ],
)
def test_wrong_arguments_are_an_error_in_one_line(tools, arguments, pattern):
  completed = launch(*arguments, env=tools.environment())
  assert completed.returncode == 1
  [line] = completed.stderr.splitlines()
  assert re.match(f'error: .*{pattern}', line)
  assert tools.calls() == []


def test_without_xmanager_the_error_contains_the_command():
  # With None in sys.modules the import fails as if it were not installed.
  code = 'import runpy, sys; sys.modules["xmanager"] = None; '
  code += 'sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name="__main__")'
  completed = subprocess.run(
    [sys.executable, '-c', code, 'launch/xm.py', *LOCAL],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    text=True,
    capture_output=True,
  )
  assert completed.returncode == 1
  assert re.match(
    r"error: XManager .*pip install 'acl_jax\[launch\]'", completed.stderr
  )
  assert completed.stderr.strip().endswith(' --config=configs/smol.py --workdir=runs/a')


@pytest.mark.parametrize('platform', [GKE, TPU_VM], ids=['gke', 'tpu_vm'])
def test_a_dry_run_imports_neither_xmanager_nor_jax(platform):
  code = 'import runpy, sys; sys.argv = sys.argv[1:]\ntry:\n  '
  code += 'runpy.run_path(sys.argv[0], run_name="__main__")\nexcept SystemExit: pass\n'
  code += 'print(json.dumps(sorted({"jax", "xmanager"} & sys.modules.keys())))'
  completed = subprocess.run(
    [
      sys.executable,
      '-c',
      f'import json\n{code}',
      'launch/xm.py',
      *platform,
      '--dry_run',
    ],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    text=True,
    capture_output=True,
    check=True,
  )
  assert json.loads(completed.stdout.splitlines()[-1]) == []
