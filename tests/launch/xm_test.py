# SPDX-License-Identifier: Apache-2.0
"""The launcher, as a user at a terminal sees it."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.launch import goldens

ROOT = Path(__file__).parent.parent.parent
REMOTE = ['--config=configs/smol.py', '--workdir=/gcs/speech/runs/7b']
GKE = [*REMOTE, '--platform=gke', '--tpu=v5e:4x4', '--image=gcr.io/mine/acl_jax']
TPU_VM = [*REMOTE, '--platform=tpu_vm', '--tpu=v5e:4x4', '--zone=us-east5-b']
SWEEP = '--sweep=response.peak_lr=1e-4,3e-4'


def launch(*arguments: str, **how) -> subprocess.CompletedProcess:
  environment = how.pop('env', os.environ) | {'PYTHONPATH': str(ROOT)}
  return subprocess.run(
    [sys.executable, 'launch/xm.py', *arguments],
    cwd=ROOT,
    env=environment,
    text=True,
    capture_output=True,
    **how,
  )


def test_what_would_be_applied_to_a_cluster():
  arguments = [*GKE, SWEEP, '--dry_run', '--', "--config.data.train=/gcs/b.c/it's"]
  done = launch(*arguments)
  assert (done.returncode, done.stderr) == (0, '')
  goldens.check('sweep.yaml', done.stdout)
  assert len(list(yaml.safe_load_all(done.stdout))) == 2


def test_what_would_be_run_here():
  arguments = ['--config=configs/smol.py', '--workdir=runs/a b', '--processes=2']
  done = launch(*arguments, SWEEP, '--dry_run')
  assert (done.returncode, done.stderr) == (0, '')
  first, second = map(shlex.split, done.stdout.splitlines())
  assert first == [
    *('/usr/bin/env', 'PYTHONUNBUFFERED=1', sys.executable, '-m', 'launch.local'),
    *('--processes=2', '--max_restarts=100', '--', sys.executable),
    *('-m', 'acl_jax.train', '--config=configs/smol.py'),
    *('--workdir=runs/a b/response.peak_lr=1e-4', '--config.response.peak_lr=1e-4'),
  ]
  assert '--workdir=runs/a b/response.peak_lr=3e-4' in second


def test_kubectl_is_given_what_a_dry_run_prints(tools):
  tools.add(tools.folder / 'kubectl')
  (tools.folder / 'kubectl').write_text('#!/bin/bash\necho "$@"; cat')
  done = launch(*GKE, env=tools.environment())
  assert done.returncode == 0, done.stderr
  assert done.stdout == 'apply --filename=-\n' + launch(*GKE, '--dry_run').stdout


def test_gcloud_is_called_for_each_work_unit(tools):
  done = launch(*TPU_VM, SWEEP, env=tools.environment())
  assert done.returncode == 0, done.stderr
  created = [call[5] for call in tools.calls() if 'create' in call]
  assert created == ['run-7b-1', 'run-7b-2']


def test_a_tool_that_fails_is_said_to_have_failed(tools):
  (tools.folder / 'kubectl').write_text('#!/bin/bash\necho forbidden >&2; exit 7')
  done = launch(*GKE, env=tools.environment())
  assert done.returncode == 1
  assert done.stderr == 'forbidden\nerror: kubectl ended with exit code 7\n'


LOCAL = ['--config=configs/smol.py', '--workdir=runs/a']


@pytest.mark.parametrize(
  'arguments, says',
  [
    ([*LOCAL, '--tpu=v5e-16'], '--tpu means nothing with --platform=local'),
    ([*GKE, '--processes=2'], '--processes means nothing with --platform=gke'),
    (GKE[:-1], '--image is missing: --platform=gke needs it'),
    (TPU_VM[:-1], '--zone is missing: --platform=tpu_vm needs it'),
    ([*GKE, '--tpu=v5e-3'], 'v5e-3: the names for v5e are v5litepod-1, v5litepod-4'),
    (
      [*TPU_VM, '--tpu=tpu7x-8'],
      '--tpu: the Cloud TPU API serves v2, v3, v4, v5e, v5p',
    ),
    ([*GKE, '--workdir=gs://b/x'], '--workdir=gs://b/x: all machines must see it, so '),
    ([*GKE, '--config=/x/y.py'], '/x/y.py'),
    ([*GKE, f'--config={ROOT}/configs/smol.py'], 'name it from the root of the rep'),
    ([*GKE, '--num_slices=2', '--tpu=v6e:2x2'], 'a slice of one host, 2x2, cannot'),
    ([*GKE, '--tpu=v3-32'], '--tpu: Kubernetes Engine has no v3'),
    ([*LOCAL, '--sweep=response.peak_lrr=1'], "no such key: 'peak_lrr'"),
    ([*LOCAL, '--program=chat'], 'flag --program=chat: value should be one of'),
    ([*LOCAL, '--num_slices=0'], 'flag --num_slices=0'),
    (['--workdir=runs/a'], 'flag --config=None: Flag --config must have a value'),
  ],
)
def test_errors_are_one_sentence(tools, arguments, says):
  done = launch(*arguments, env=tools.environment())
  assert done.returncode == 1
  [line] = done.stderr.splitlines()
  assert line.startswith('error: ') and says in line
  assert tools.calls() == []


def test_without_xmanager_the_command_is_said():
  # An empty module of that name, as if it were not installed.
  code = 'import runpy, sys; sys.modules["xmanager"] = None; '
  code += 'sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name="__main__")'
  done = subprocess.run(
    [sys.executable, '-c', code, 'launch/xm.py', *LOCAL],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    text=True,
    capture_output=True,
  )
  assert done.returncode == 1
  says = "error: XManager is missing: pip install 'acl_jax[launch]', or run "
  assert done.stderr.startswith(says)
  assert done.stderr.strip().endswith(' --config=configs/smol.py --workdir=runs/a')


@pytest.mark.parametrize('platform', [GKE, TPU_VM], ids=['gke', 'tpu_vm'])
def test_a_dry_run_imports_neither_xmanager_nor_jax(platform):
  code = 'import runpy, sys; sys.argv = sys.argv[1:]\ntry:\n  '
  code += 'runpy.run_path(sys.argv[0], run_name="__main__")\nexcept SystemExit: pass\n'
  code += 'print(json.dumps(sorted({"jax", "xmanager"} & sys.modules.keys())))'
  done = subprocess.run(
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
  assert json.loads(done.stdout.splitlines()[-1]) == []
