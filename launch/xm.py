# SPDX-License-Identifier: Apache-2.0
r"""Program: starts training, or a sweep of it, on this machine or on slices of TPUs.

  python launch/xm.py --config=configs/smol.py --workdir=runs/smol
  python launch/xm.py --platform=gke --tpu=v5litepod-16 --image=gcr.io/mine/acl_jax \
      --config=configs/llama2_7b_mls.py --workdir=/gcs/speech/runs/7b \
      --sweep=response.peak_lr=1e-4,3e-4 -- --config.data.train=/gcs/speech/mls/prepared
  python launch/xm.py --platform=tpu_vm --tpu=v6e:4x4 --zone=us-east5-b ...

What follows `--` goes to the program. --dry_run prints what would be run or applied.
Run it again to continue. Exit code 42: preempted after saving.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from acl_jax.runtime import program
from acl_jax.tpu import slices
from launch import gke, quoting, this_machine, tpu_vm
from launch.work_units import PROGRAMS, WorkUnit, work_units

# Flags that mean something on some platforms only.
PLATFORMS = {
  'local': {'processes'},
  'gke': {'tpu', 'num_slices', 'spot', 'image'},
  'tpu_vm': {'tpu', 'num_slices', 'spot', 'zone'},
}


def main(argv: Sequence[str]) -> None:
  """Renders the work units for the platform and runs what was rendered."""
  del argv
  f = flags.FLAGS
  check_flags(f.platform)
  units = work_units(f.program, f.config, f.workdir, f.sweep, ARGUMENTS)
  if f.platform == 'local':
    launch_local(units)
    return
  check_remote(units)
  tpu = slices.parse_slice(f.tpu)
  if f.platform == 'gke':
    launch_gke(units, gke.Cluster(tpu, f.num_slices, f.image, f.spot, f.max_restarts))
  else:
    launch_tpu_vm(
      units, tpu_vm.Slices(tpu, f.num_slices, f.zone, f.spot, f.max_restarts)
    )


def check_flags(platform: str) -> None:
  """Refuses flags of another platform, and asks for those without a default."""
  known = set().union(*PLATFORMS.values())
  for name in sorted(known - PLATFORMS[platform]):
    if flags.FLAGS[name].present:
      raise ValueError(f'--{name} means nothing with --platform={platform}')
  for name in sorted(PLATFORMS[platform]):
    if flags.FLAGS[name].value is None:
      raise ValueError(f'--{name} is missing: --platform={platform} needs it')


def check_remote(units: Sequence[WorkUnit]) -> None:
  """Refuses what another machine would not find."""
  config, workdir = units[0].config, units[0].workdir
  if os.path.isabs(config) or '..' in Path(config).parts:
    raise ValueError(f'--config={config}: name it from the root of the repository')
  if not workdir.startswith('/gcs/') or not units[0].buckets:
    raise ValueError(
      f'--workdir={workdir}: all machines must see it, so write /gcs/BUCKET/folder: the'
      ' bucket is mounted there'
    )


def launch_local(units: Sequence[WorkUnit]) -> None:
  """Here, with XManager."""
  how = flags.FLAGS.processes, flags.FLAGS.max_restarts
  if flags.FLAGS.dry_run:
    for unit in units:
      print(quoting.line(this_machine.command(unit, *how)))
  else:
    this_machine.run(units, *how)


def launch_gke(units: Sequence[WorkUnit], cluster: gke.Cluster) -> None:
  """With kubectl, to the cluster that it is set to."""
  manifests = gke.manifests(units, cluster)
  if flags.FLAGS.dry_run:
    print(manifests, end='')
  else:
    run_tool(['kubectl', 'apply', '--filename=-'], manifests)


def launch_tpu_vm(units: Sequence[WorkUnit], slices: tpu_vm.Slices) -> None:
  """With gcloud, in the project that it is set to."""
  scripts = [tpu_vm.script(unit, slices) for unit in units]
  if flags.FLAGS.dry_run:
    print('\n'.join(scripts), end='')
    return
  for script in scripts:
    with tempfile.NamedTemporaryFile('w', suffix='.sh') as file:
      file.write(script)
      file.flush()
      run_tool(['bash', file.name], needs='gcloud')


def run_tool(argv: Sequence[str], text: str | None = None, needs: str = '') -> None:
  """Runs a program of the cloud's; what it says of its errors stays above ours."""
  tool = needs or argv[0]
  if shutil.which(tool) is None:
    raise ValueError(
      f'{tool} is not installed: --dry_run prints what it would be given'
    )
  code = subprocess.run(argv, input=text, text=True).returncode
  if code:
    raise ValueError(f'{tool} ended with exit code {code}')


if __name__ == '__main__':
  flags.DEFINE_enum('platform', 'local', list(PLATFORMS), 'where to run')
  flags.DEFINE_enum('program', 'train', list(PROGRAMS), 'what to run')
  flags.DEFINE_string('config', None, 'the config file, as the program takes it')
  flags.DEFINE_string('workdir', None, 'folder for all that the program makes')
  flags.DEFINE_multi_string(
    'sweep', [], 'config key and its values, like optim.peak_lr=1e-4,3e-4'
  )
  flags.DEFINE_integer('processes', 1, 'on this machine, for one run', lower_bound=1)
  flags.DEFINE_string('tpu', None, 'a slice, like v5litepod-16 or v6e:4x4')
  flags.DEFINE_integer('num_slices', 1, 'slices of one run', lower_bound=1)
  flags.DEFINE_bool('spot', False, 'machines that may be taken away, for less')
  flags.DEFINE_string('image', None, 'container whose folder is this repository')
  flags.DEFINE_string('zone', None, 'of TPU VMs, like us-east5-b')
  flags.DEFINE_integer('max_restarts', 100, 'restarts of a run', lower_bound=0)
  flags.DEFINE_bool('dry_run', False, 'print what would be done')
  flags.mark_flags_as_required(['config', 'workdir'])
  sys.argv, ARGUMENTS = quoting.split(sys.argv)
  program.run(main)
