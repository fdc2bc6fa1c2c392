# SPDX-License-Identifier: Apache-2.0
r"""Program: launch a run, or a sweep, on this machine or on TPU slices.

  python launch/xm.py --config=configs/smol.py --workdir=runs/smol
  python launch/xm.py --platform=gke --tpu=v5litepod-16 --image=gcr.io/mine/acl_jax \
      --config=configs/llama2_7b_mls.py --workdir=/gcs/speech/runs/7b \
      --sweep=response.peak_lr=1e-4,3e-4 -- --config.data.train=/gcs/speech/mls/prepared
  python launch/xm.py --platform=tpu_vm --tpu=v6e:4x4 --zone=us-east5-b ...

Arguments after `--` are passed to the program. --dry_run prints what would be run or
applied. Run it again to resume. Exit code 42 means preempted after saving.
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
from launch.work_units import OUTPUT_FLAGS, WorkUnit, work_units

# Flags that only some platforms have.
PLATFORMS = {
  'local': {'processes'},
  'gke': {'tpu', 'num_slices', 'spot', 'image'},
  'tpu_vm': {'tpu', 'num_slices', 'spot', 'zone'},
}


def main(argv: Sequence[str]) -> None:
  """Render the work units for the platform and launch them."""
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
      units, tpu_vm.SliceRequest(tpu, f.num_slices, f.zone, f.spot, f.max_restarts)
    )


def check_flags(platform: str) -> None:
  """Raise ValueError for flags of another platform, and for missing flags."""
  known = set().union(*PLATFORMS.values())
  for name in sorted(known - PLATFORMS[platform]):
    if flags.FLAGS[name].present:
      raise ValueError(f'--{name} does not apply to --platform={platform}')
  for name in sorted(PLATFORMS[platform]):
    if flags.FLAGS[name].value is None:
      raise ValueError(f'--{name} is required by --platform={platform}')


def check_remote(units: Sequence[WorkUnit]) -> None:
  """Raise ValueError for paths that another machine would not find."""
  config, workdir = units[0].config, units[0].workdir
  if os.path.isabs(config) or '..' in Path(config).parts:
    raise ValueError(f'--config={config}: must be relative to the repository root')
  if not workdir.startswith('/gcs/') or not units[0].buckets:
    raise ValueError(
      f'--workdir={workdir}: must be /gcs/BUCKET/folder, where all machines mount the'
      ' bucket'
    )


def launch_local(units: Sequence[WorkUnit]) -> None:
  """Launch on this machine, with XManager."""
  processes, max_restarts = flags.FLAGS.processes, flags.FLAGS.max_restarts
  if flags.FLAGS.dry_run:
    for unit in units:
      command = this_machine.command(unit, processes, max_restarts)
      print(quoting.command_line(command))
  else:
    this_machine.run(units, processes, max_restarts)


def launch_gke(units: Sequence[WorkUnit], cluster: gke.Cluster) -> None:
  """Launch with kubectl, on its current cluster."""
  manifests = gke.render_manifests(units, cluster)
  if flags.FLAGS.dry_run:
    print(manifests, end='')
  else:
    run_tool(['kubectl', 'apply', '--filename=-'], manifests)


def launch_tpu_vm(units: Sequence[WorkUnit], request: tpu_vm.SliceRequest) -> None:
  """Launch with gcloud, in its current project."""
  scripts = [tpu_vm.render_script(unit, request) for unit in units]
  if flags.FLAGS.dry_run:
    print('\n'.join(scripts), end='')
    return
  for script in scripts:
    with tempfile.NamedTemporaryFile('w', suffix='.sh') as file:
      file.write(script)
      file.flush()
      run_tool(['bash', file.name], required='gcloud')


def run_tool(argv: Sequence[str], text: str | None = None, required: str = '') -> None:
  """Run a tool of the Cloud, whose own error messages come before ours.

  Args:
    argv: The command.
    text: Its standard input.
    required: The tool that must be installed, if it is not `argv[0]`.
  """
  tool = required or argv[0]
  if shutil.which(tool) is None:
    raise ValueError(
      f'{tool} is not installed; --dry_run prints what would be passed to it'
    )
  code = subprocess.run(argv, input=text, text=True).returncode
  if code:
    raise ValueError(f'{tool} failed with exit code {code}')


if __name__ == '__main__':
  flags.DEFINE_enum('platform', 'local', list(PLATFORMS), 'where to launch')
  flags.DEFINE_enum('program', 'train', list(OUTPUT_FLAGS), 'program to run')
  flags.DEFINE_string('config', None, 'config file, as for the program')
  flags.DEFINE_string('workdir', None, 'folder that the program writes to')
  flags.DEFINE_multi_string(
    'sweep', [], 'config key and its values, like ctc.peak_lr=1e-3,2e-3'
  )
  flags.DEFINE_integer(
    'processes', 1, 'JAX processes of a run on this machine', lower_bound=1
  )
  flags.DEFINE_string('tpu', None, 'TPU slice, like v5litepod-16 or v6e:4x4')
  flags.DEFINE_integer('num_slices', 1, 'slices of a run', lower_bound=1)
  flags.DEFINE_bool('spot', False, 'use Spot machines: cheaper, but preemptible')
  flags.DEFINE_string(
    'image', None, 'container image whose working folder is this repository'
  )
  flags.DEFINE_string('zone', None, 'zone of TPU VMs, like us-east5-b')
  flags.DEFINE_integer(
    'max_restarts', 100, 'restarts of a run after preemption', lower_bound=0
  )
  flags.DEFINE_bool('dry_run', False, 'print what would be run or applied')
  flags.mark_flags_as_required(['config', 'workdir'])
  sys.argv, ARGUMENTS = quoting.split_at_dashes(sys.argv)
  program.run(main)
