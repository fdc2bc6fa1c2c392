# SPDX-License-Identifier: Apache-2.0
"""A work unit on TPU VMs, as one bash script that copies the code, asks for the slice,
runs on all workers, and again when the slice was taken away.

The Cloud TPU API is frozen and serves v2 to v6e; later generations are rented through
Kubernetes Engine or Compute Engine. Sources: docs.cloud.google.com/tpu/docs and
docs.cloud.google.com/sdk/gcloud/reference/compute/tpus/queued-resources.
"""

import dataclasses

from acl_jax.tpu.slices import Slice
from launch import quoting
from launch.tpus import OFFERS, offer
from launch.work_units import STALE, WorkUnit

SERVED = ', '.join(name for name, offered in OFFERS.items() if offered.runtime)


@dataclasses.dataclass(frozen=True)
class Slices:
  """What is asked for."""

  tpu: Slice
  num_slices: int
  zone: str
  spot: bool
  max_restarts: int


def check(slices: Slices) -> None:
  """Refuses what the Cloud TPU API does not serve."""
  generation = slices.tpu.generation
  if offer(slices.tpu).runtime is None:
    raise ValueError(
      f'--tpu: the Cloud TPU API serves {SERVED}; {generation.name} is to be had from'
      ' Kubernetes Engine (--platform=gke) and Compute Engine'
    )


# What follows the functions of a script.
STEPS = """
start() {
  copy
  local state
  state=$(state)
  case $state in
    NONE) create ;;
    ACTIVE) run ;;
    SUSPENDING | SUSPENDED | FAILED) delete && create ;;
    *) echo "$state: nothing to do but to wait" ;;
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
      echo "error: no step is called $step" >&2
      exit 1
      ;;
  esac
done
"""


def script(unit: WorkUnit, slices: Slices) -> str:
  """The script for the launching machine, run where the repository is."""
  check(slices)
  tpu = slices.tpu
  what = f'{slices.num_slices} x {tpu.accelerator_type or tpu.topology}'
  header = f"""\
#!/bin/bash
# {unit.name}: {what} ({tpu.generation.name}, {tpu.topology}) in {slices.zone}.
# Without arguments it starts, or goes on where a slice was taken away. Or by step:
#   copy      the committed code and the workers' script, to the bucket
#   create    ask for the slice; it trains as soon as it is there
#   run       run on all workers again, and follow
#   delete    give the slice back: it costs until then, also when training is done
# The Cloud TPU API is frozen; it serves {SERVED}.
set -euo pipefail
"""
  functions = _functions(unit, slices)
  bodies = [f'\n{name}() {{\n{body}\n}}\n' for name, body in functions.items()]
  return ''.join([header, *bodies, STEPS])


def _functions(unit: WorkUnit, slices: Slices) -> dict[str, str]:
  """The body of each by its name."""

  def resources(verb: str, *flags: str) -> str:
    command = ('gcloud', 'compute', 'tpus', 'queued-resources', verb, unit.name)
    return quoting.lines([*command, f'--zone={slices.zone}', *flags], '  ')

  config = unit.config.partition(':')[0]  # a variant of the config follows
  folder = f'gs://{unit.workdir.removeprefix("/gcs/").rstrip("/")}/launch/'
  fetch = quoting.line(
    ['gcloud', 'storage', 'cp', f'{folder}startup.sh', '/tmp/startup.sh']
  )
  on_worker = f'--command={fetch} && sudo bash /tmp/startup.sh'
  end = 'END_OF_STARTUP_SCRIPT'
  return {
    'startup_script': f"  cat << '{end}'\n{startup_script(unit, slices)}{end}",
    'copy': f"""\
  {quoting.line(['git', 'cat-file', '-e', f'HEAD:{config}'])}
  git archive --format=tar.gz --output="$folder/code.tar.gz" HEAD
  gcloud storage cp "$folder/code.tar.gz" "$folder/startup.sh" \\
    {quoting.quote(folder)}""",
    'create': f"""\
{resources('create', *_request(unit, slices))} \\
    --metadata-from-file="startup-script=$folder/startup.sh\"""",
    'run': resources('ssh', '--node=all', '--worker=all', on_worker),
    'delete': resources('delete', '--force', '--quiet'),
    'state': f"""\
{resources('describe', '--format=value(state.state)')} \\
    2> /dev/null || echo NONE""",
  }


def startup_script(unit: WorkUnit, slices: Slices) -> str:
  """Runs on every worker, as root, whenever it starts; twice does no harm."""
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
    *('.venv/bin/python', '-m', 'launch.local'),
    *(f'--max_restarts={slices.max_restarts}', '--', '.venv/bin/python', *unit.argv),
  )
  return f"""#!/bin/bash
set -euo pipefail
export HOME="${{HOME:-/root}}"
{exports}# What an earlier slice has left would make JAX wait for it for ever.
unset {' '.join(STALE)}
exec 9> /run/acl_jax.lock
flock -n 9 || {{ echo 'error: it runs already' >&2; exit 1; }}
{mounts}mkdir -p /opt/acl_jax
cd /opt/acl_jax
tar -xzf {quoting.quote(unit.workdir.rstrip('/') + '/launch/code.tar.gz')}
python3 -m pip install --quiet uv
test -x .venv/bin/python || python3 -m uv venv --python 3.12 .venv
python3 -m uv pip install --quiet --python .venv/bin/python -e '.[tpu]'
exec {quoting.line(supervisor)}
"""


def _request(unit: WorkUnit, slices: Slices) -> list[str]:
  tpu = slices.tpu
  size = [f'--accelerator-type={tpu.accelerator_type}']
  if tpu.accelerator_type is None:
    size = [f'--type={tpu.generation.prefix}', f'--topology={tpu.topology}']
  nodes = [f'--node-id={unit.name}']
  if slices.num_slices > 1:
    nodes = [f'--node-count={slices.num_slices}', f'--node-prefix={unit.name}']
  spot = ['--spot'] if slices.spot else []
  runtime = f'--runtime-version={offer(tpu).runtime}'
  return [*size, runtime, *nodes, *spot]
