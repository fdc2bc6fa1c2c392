# SPDX-License-Identifier: Apache-2.0
"""Render a work unit as one bash script for TPU VMs.

The script copies the code, requests the slice and runs the program on all workers; run
again after a preemption, it requests the slice again. The Cloud TPU API is frozen and
serves v2 to v6e; later generations are available through Kubernetes Engine or Compute
Engine. Sources: docs.cloud.google.com/tpu/docs and
docs.cloud.google.com/sdk/gcloud/reference/compute/tpus/queued-resources.
"""

import dataclasses

from acl_jax.tpu.slices import Slice
from launch import quoting
from launch.tpus import CLOUD_NAMES, cloud_names
from launch.work_units import MULTISLICE_VARIABLES, WorkUnit

SERVED_GENERATIONS = ', '.join(
  generation for generation, names in CLOUD_NAMES.items() if names.runtime
)


@dataclasses.dataclass(frozen=True)
class SliceRequest:
  """The slices to request."""

  tpu: Slice
  num_slices: int
  zone: str
  spot: bool
  max_restarts: int


def check_request(request: SliceRequest) -> None:
  """Raise ValueError if the Cloud TPU API does not serve such slices."""
  generation = request.tpu.generation
  if cloud_names(request.tpu).runtime is None:
    raise ValueError(
      f'--tpu: the Cloud TPU API serves {SERVED_GENERATIONS}; {generation.name} is'
      ' available from Kubernetes Engine (--platform=gke) and Compute Engine'
    )


# Follows the functions in every script.
_DISPATCH = """
start() {
  copy
  local state
  state=$(state)
  case $state in
    NONE) create ;;
    ACTIVE) run ;;
    SUSPENDING | SUSPENDED | FAILED) delete && create ;;
    *) echo "the slice is $state: wait, then run this again" ;;
  esac
}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
startup_script > "$folder/startup.sh"
for step in "${@:-start}"; do
  case $step in
    start) start ;;
    copy) copy ;;
    create) create ;;
    run) run ;;
    delete) delete ;;
    *)
      echo "error: unknown step $step" >&2
      exit 1
      ;;
  esac
done
"""


def render_script(unit: WorkUnit, request: SliceRequest) -> str:
  """Return the script for the launching machine, to be run in the repository."""
  check_request(request)
  tpu = request.tpu
  size = f'{request.num_slices} x {tpu.accelerator_type or tpu.topology}'
  header = f"""\
#!/bin/bash
# {unit.name}: {size} ({tpu.generation.name}, {tpu.topology}) in {request.zone}.
# Without arguments it starts the run, or resumes it after a preemption. Single steps:
#   copy      copy the committed code and the workers' script to the bucket
#   create    request the slice; the program starts once the slice is available
#   run       start the program on all workers again and follow its output
#   delete    release the slice, which is billed until then, even after the run ends
# The Cloud TPU API is frozen; it serves {SERVED_GENERATIONS}.
set -euo pipefail
"""
  functions = _bash_functions(unit, request)
  bodies = [f'\n{name}() {{\n{body}\n}}\n' for name, body in functions.items()]
  return ''.join([header, *bodies, _DISPATCH])


def _bash_functions(unit: WorkUnit, request: SliceRequest) -> dict[str, str]:
  """Return the body of each bash function by its name."""

  def queued_resources(verb: str, *flags: str) -> str:
    command = ('gcloud', 'compute', 'tpus', 'queued-resources', verb, unit.name)
    return quoting.command_lines([*command, f'--zone={request.zone}', *flags], '  ')

  config = unit.config.partition(':')[0]  # without the name of a variant
  folder = f'gs://{unit.workdir.removeprefix("/gcs/").rstrip("/")}/launch/'
  fetch = quoting.command_line(
    ['gcloud', 'storage', 'cp', f'{folder}startup.sh', '/tmp/startup.sh']
  )
  on_worker = f'--command={fetch} && sudo bash /tmp/startup.sh'
  end = 'END_OF_STARTUP_SCRIPT'
  return {
    'startup_script': f"  cat << '{end}'\n{startup_script(unit, request)}{end}",
    'copy': f"""\
  {quoting.command_line(['git', 'cat-file', '-e', f'HEAD:{config}'])}
  git archive --format=tar.gz --output="$folder/code.tar.gz" HEAD
  gcloud storage cp "$folder/code.tar.gz" "$folder/startup.sh" \\
    {quoting.quote(folder)}""",
    'create': f"""\
{queued_resources('create', *_create_flags(unit, request))} \\
    --metadata-from-file="startup-script=$folder/startup.sh\"""",
    'run': queued_resources('ssh', '--node=all', '--worker=all', on_worker),
    'delete': queued_resources('delete', '--force', '--quiet'),
    'state': f"""\
{queued_resources('describe', '--format=value(state.state)')} \\
    2> /dev/null || echo NONE""",
  }


def startup_script(unit: WorkUnit, request: SliceRequest) -> str:
  """Return the script that every worker runs as root at start-up; it is idempotent."""
  mounts = ''.join(
    f'mkdir -p /gcs/{bucket}\n'
    f'mountpoint -q /gcs/{bucket}'
    f' || gcsfuse --implicit-dirs -o allow_other {bucket} /gcs/{bucket}\n'
    for bucket in unit.buckets
  )
  exports = ''.join(
    f'export {name}={quoting.quote(value)}\n' for name, value in unit.env.items()
  )
  supervisor = (
    '.venv/bin/python',
    '-m',
    'launch.local',
    f'--max_restarts={request.max_restarts}',
    '--',
    '.venv/bin/python',
    *unit.argv,
  )
  return f"""#!/bin/bash
set -euo pipefail
export HOME="${{HOME:-/root}}"
{exports}# Variables of an earlier slice would make JAX wait for it forever.
unset {' '.join(MULTISLICE_VARIABLES)}
exec 9> /run/acl_jax.lock
flock -n 9 || {{ echo 'error: the program is already running' >&2; exit 1; }}
{mounts}mkdir -p /opt/acl_jax
cd /opt/acl_jax
tar -xzf {quoting.quote(unit.workdir.rstrip('/') + '/launch/code.tar.gz')}
python3 -m pip install --quiet uv
test -x .venv/bin/python || python3 -m uv venv --python 3.12 .venv
python3 -m uv pip install --quiet --python .venv/bin/python -e '.[tpu]'
exec {quoting.command_line(supervisor)}
"""


def _create_flags(unit: WorkUnit, request: SliceRequest) -> list[str]:
  tpu = request.tpu
  size = [f'--accelerator-type={tpu.accelerator_type}']
  if tpu.accelerator_type is None:
    size = [f'--type={tpu.generation.prefix}', f'--topology={tpu.topology}']
  nodes = [f'--node-id={unit.name}']
  if request.num_slices > 1:
    nodes = [f'--node-count={request.num_slices}', f'--node-prefix={unit.name}']
  spot = ['--spot'] if request.spot else []
  runtime = f'--runtime-version={cloud_names(tpu).runtime}'
  return [*size, runtime, *nodes, *spot]
