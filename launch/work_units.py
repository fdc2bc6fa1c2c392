# SPDX-License-Identifier: Apache-2.0
"""What runs: a program, or one for each choice of a sweep; its arguments, environment.

A sweep is `response.peak_lr=1e-4,3e-4`: a key of the config and its values. Several
make their product. Each choice has a folder of its own in the workdir, named after it,
so that a longer sweep continues what a shorter one began.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence

from absl import flags
from ml_collections import config_flags

from acl_jax.runtime.program import PREEMPTED

# The programs, and the flag that names the folder they write to.
PROGRAMS = {
  'train': 'workdir',
  'pretrain': 'workdir',
  'decode_targets': 'output',
  'evaluate': 'output',
}

# Exit codes after which the program is to run again: saved and preempted; or ended by
# SIGABRT, SIGBUS, SIGKILL, SIGSEGV or SIGTERM, as when a machine, its own or a peer's,
# is taken away.
RESTART_CODES = (PREEMPTED, 134, 135, 137, 139, 143)

# What tells JAX of other slices. Left over from an earlier slice, it waits for ever.
STALE = (
  *('MEGASCALE_COORDINATOR_ADDRESS', 'MEGASCALE_NUM_SLICES'),
  *('MEGASCALE_PORT', 'MEGASCALE_SLICE_ID'),
)

_MOST = 1_000  # work units of a sweep
_LONGEST_FOLDER = 200  # characters
_LONGEST_NAME = 28  # characters; Kubernetes and xpk append theirs, up to 63


@dataclasses.dataclass(frozen=True)
class WorkUnit:
  """One run. argv: what follows the Python interpreter. name: a DNS label.

  buckets: of Cloud Storage, which the config or the arguments name as /gcs/BUCKET.
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
  """The product of the sweeps, in order; `arguments` go to each program as they are."""
  choices = [parse_sweep(text) for text in sweeps]
  keys = [key for key, _ in choices]
  if len(set(keys)) < len(keys):
    raise ValueError(f'--sweep: {max(keys, key=keys.count)} is given twice')
  if (count := math.prod(len(values) for _, values in choices)) > _MOST:
    raise ValueError(f'--sweep: {count} work units, at most {_MOST}')
  units = []
  for number, values in enumerate(itertools.product(*(v for _, v in choices)), 1):
    chosen = tuple(zip(keys, values, strict=True))
    folder = f'{workdir.rstrip("/")}/{_folder_name(chosen)}' if chosen else workdir
    overrides = [f'--config.{key}={value}' for key, value in chosen]
    argv = (
      *('-m', f'acl_jax.{program}', f'--config={config}'),
      *(f'--{PROGRAMS[program]}={folder}', *arguments, *overrides),
    )
    name = _dns_label(workdir, f'-{number}' if chosen else '')
    units.append(
      WorkUnit(name, argv, {'PYTHONUNBUFFERED': '1'}, config, folder, _check(argv))
    )
  folders = [unit.workdir for unit in units]
  if len(set(folders)) < len(folders):
    twice = max(folders, key=folders.count)
    raise ValueError(f'--sweep: two choices would share the folder {twice}')
  return units


def parse_sweep(text: str) -> tuple[str, list[str]]:
  """`config.a.b=(1,2),3` -> ('a.b', ['(1,2)', '3'])."""
  key, equals, values = text.partition('=')
  key = key.removeprefix('--').removeprefix('config.')
  if not equals or not re.fullmatch(r'\w+(\.\w+)*', key):
    raise ValueError(f'--sweep={text}: a sweep is written like optim.peak_lr=1e-4,3e-4')
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


def _check(argv: Sequence[str]) -> tuple[str, ...]:
  """Reads the config as the program will; returns the buckets that it and argv name."""
  for argument in argv:
    try:
      faulty = '\0' in argument or not argument.encode()
    except UnicodeEncodeError:
      faulty = True
    if faulty:
      raise ValueError(
        f'{argument!r}: an argument must be text, not empty, without NUL'
      )
  values = flags.FlagValues()
  own = ['', *argv[2:]]
  config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=own)
  values(own, known_only=True)  # the other flags are the program's own
  config = values.config.to_dict()  # references among its fields followed
  text = repr([config, *argv])
  found = re.findall(r'(?<![\w./-])/gcs/([a-z0-9][a-z0-9._-]{1,61}[a-z0-9])', text)
  return tuple(sorted(set(found)))


def _folder_name(chosen: Sequence[tuple[str, str]]) -> str:
  name = ','.join('='.join(pair) for pair in chosen)
  name = re.sub(r'[^A-Za-z0-9_.,=+-]', '_', name)
  if len(name) > _LONGEST_FOLDER:
    size = f'{len(name)} characters, at most {_LONGEST_FOLDER}'
    raise ValueError(f'--sweep: the folder {name} would have a name of {size}')
  return name


def _dns_label(workdir: str, suffix: str) -> str:
  words = re.findall(r'[a-z0-9]+', workdir.rstrip('/').rpartition('/')[2].lower())
  if not words:
    raise ValueError(f'--workdir={workdir}: its last part must name the job')
  name = '-'.join(words) if words[0][0].isalpha() else '-'.join(['run', *words])
  return name[: _LONGEST_NAME - len(suffix)].rstrip('-') + suffix
