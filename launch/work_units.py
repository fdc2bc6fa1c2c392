# SPDX-License-Identifier: Apache-2.0
"""Work units: the runs of a program, one for each point of a sweep.

A sweep is written `response.peak_lr=1e-4,3e-4`: a key of the config and its values.
Several sweeps form their product. Each point has a folder of its own in the workdir,
named after its values, so a longer sweep continues the runs of a shorter one.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence

from absl import flags

from acl_jax.runtime import config_flag
from acl_jax.runtime.program import PREEMPTED

# The programs, and the flag for the folder that each writes to.
OUTPUT_FLAGS = {
  'train': 'workdir',
  'pretrain': 'workdir',
  'decode_targets': 'output',
  'evaluate': 'output',
}

# Exit codes after which a program is started again: preempted after saving, or ended by
# SIGABRT, SIGBUS, SIGKILL, SIGSEGV or SIGTERM, as happens when its own machine or a
# peer's is preempted.
RESTART_CODES = (PREEMPTED, 134, 135, 137, 139, 143)

# Variables that describe the other slices to JAX. Those of an earlier slice would make
# it wait forever.
MULTISLICE_VARIABLES = (
  'MEGASCALE_COORDINATOR_ADDRESS',
  'MEGASCALE_NUM_SLICES',
  'MEGASCALE_PORT',
  'MEGASCALE_SLICE_ID',
)

_MAX_UNITS = 1_000
_MAX_FOLDER_LENGTH = 200  # characters
_MAX_NAME_LENGTH = 28  # characters; Kubernetes and xpk extend names, up to 63


@dataclasses.dataclass(frozen=True)
class WorkUnit:
  """One run of a program.

  Attributes:
    name: A DNS label.
    argv: Arguments of the Python interpreter.
    env: Additional environment variables.
    config: The config file, as the program takes it.
    workdir: The folder that the program writes to.
    buckets: Cloud Storage buckets that appear as /gcs/BUCKET in the config or in argv.
  """

  name: str
  argv: tuple[str, ...]
  env: Mapping[str, str]
  config: str
  workdir: str
  buckets: tuple[str, ...]


def work_units(
  program: str,
  config: str,
  workdir: str,
  sweeps: Sequence[str] = (),
  arguments: Sequence[str] = (),
) -> list[WorkUnit]:
  """Return the product of the sweeps, in order; each program gets `arguments` as is."""
  axes = [parse_sweep(text) for text in sweeps]
  keys = [key for key, _ in axes]
  if len(set(keys)) < len(keys):
    raise ValueError(f'--sweep: {max(keys, key=keys.count)} is given twice')
  if (count := math.prod(len(values) for _, values in axes)) > _MAX_UNITS:
    raise ValueError(f'--sweep: {count} work units; the limit is {_MAX_UNITS}')
  units = []
  for number, values in enumerate(itertools.product(*(v for _, v in axes)), 1):
    point = tuple(zip(keys, values, strict=True))
    folder = f'{workdir.rstrip("/")}/{_folder_name(point)}' if point else workdir
    overrides = [f'--config.{key}={value}' for key, value in point]
    argv = (
      '-m',
      f'acl_jax.{program}',
      f'--config={config}',
      f'--{OUTPUT_FLAGS[program]}={folder}',
      *arguments,
      *overrides,
    )
    _check_arguments(argv)
    units.append(
      WorkUnit(
        name=_dns_label(workdir, f'-{number}' if point else ''),
        argv=argv,
        env={'PYTHONUNBUFFERED': '1'},
        config=config,
        workdir=folder,
        buckets=_find_buckets(argv),
      )
    )
  folders = [unit.workdir for unit in units]
  if len(set(folders)) < len(folders):
    twice = max(folders, key=folders.count)
    raise ValueError(f'--sweep: two work units would share the folder {twice}')
  return units


def parse_sweep(text: str) -> tuple[str, list[str]]:
  """Parse a sweep: `config.a.b=(1,2),3` is ('a.b', ['(1,2)', '3'])."""
  key, equals, values = text.partition('=')
  key = key.removeprefix('--').removeprefix('config.')
  if not equals or not re.fullmatch(r'\w+(\.\w+)*', key):
    raise ValueError(f'--sweep={text}: write a sweep like ctc.peak_lr=1e-3,2e-3')
  parts, depth = [''], 0
  for character in values:
    depth += (character in '([{') - (character in ')]}')
    if character == ',' and depth == 0:
      parts.append('')
    else:
      parts[-1] += character
  if '' in parts:
    raise ValueError(f'--sweep={text}: value {parts.index("") + 1} is empty')
  return key, parts


def _check_arguments(argv: Sequence[str]) -> None:
  for argument in argv:
    try:
      is_invalid = '\0' in argument or not argument.encode()
    except UnicodeEncodeError:
      is_invalid = True
    if is_invalid:
      raise ValueError(f'{argument!r}: an argument must be non-empty text without NUL')


def _find_buckets(argv: Sequence[str]) -> tuple[str, ...]:
  """Read the config as the program will; return the buckets in it and in `argv`."""
  values = flags.FlagValues()
  own = ['', *argv[2:]]
  config_flag.define(flag_values=values, argv=own)
  values(own, known_only=True)  # the other flags are the program's own
  config = values.config.to_dict()  # resolves references between fields
  text = repr([config, *argv])
  buckets = re.findall(r'(?<![\w./-])/gcs/([a-z0-9][a-z0-9._-]{1,61}[a-z0-9])', text)
  return tuple(sorted(set(buckets)))


def _folder_name(point: Sequence[tuple[str, str]]) -> str:
  name = ','.join('='.join(pair) for pair in point)
  name = re.sub(r'[^A-Za-z0-9_.,=+-]', '_', name)
  if len(name) > _MAX_FOLDER_LENGTH:
    raise ValueError(
      f'--sweep: the folder name {name} has {len(name)} characters; the limit is'
      f' {_MAX_FOLDER_LENGTH}'
    )
  return name


def _dns_label(workdir: str, suffix: str) -> str:
  words = re.findall(r'[a-z0-9]+', workdir.rstrip('/').rpartition('/')[2].lower())
  if not words:
    raise ValueError(
      f'--workdir={workdir}: its last part names the job, so it must contain letters or'
      ' digits'
    )
  name = '-'.join(words) if words[0][0].isalpha() else '-'.join(['run', *words])
  return name[: _MAX_NAME_LENGTH - len(suffix)].rstrip('-') + suffix
