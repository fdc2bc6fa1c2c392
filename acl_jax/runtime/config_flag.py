# SPDX-License-Identifier: Apache-2.0
"""The flag --config, a file of Python, and --config.KEY=VALUE for keys in it.

The file has a function `get_config` that returns an `ml_collections.ConfigDict`. With
--config=FILE:TEXT it is called with TEXT. Keys may come before --config; of several
values of a key the last one counts.
"""

import difflib
import importlib.util
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from acl_jax.runtime.config_values import Override, set_key

_NAME = 'config'
_OVERRIDE = re.compile(r'--?(?P<no>no)?config\.(?P<key>[^=]+)(=(?P<value>.*))?', re.S)


def define(
  *kinds: Any,
  flag_values: flags.FlagValues = flags.FLAGS,
  argv: Sequence[str] | None = None,
) -> None:
  """Define --config, and a flag for every key that the arguments set.

  kinds: dataclasses that the config is parsed into; the types of their fields decide
  how values are read, and else those of the values in the file. argv: of the program;
  None for `sys.argv`.
  """
  argv = flags.FLAGS.read_flags_from_files(sys.argv if argv is None else list(argv))
  overrides = find_overrides(argv[1:])
  parser = _Parser(overrides, kinds)
  flags.DEFINE(
    parser,
    _NAME,
    None,
    'path of a config file',
    flag_values,
    flags.ArgumentSerializer(),
  )
  for key, boolean in {key: value is None for key, value, _ in overrides}.items():
    flag = flags.Flag(
      flags.ArgumentParser(), None, f'{_NAME}.{key}', None, f'a key of --{_NAME}'
    )
    flag.boolean = boolean  # it then needs no value
    flags.DEFINE_flag(flag, flag_values)


def path() -> Path:
  """Return the path of the config file, once the flags are parsed."""
  parser: Any = flags.FLAGS[_NAME].parser
  return Path(parser.path)


def find_overrides(arguments: Sequence[str]) -> list[Override]:
  """Return the keys of the config that arguments set, in their order."""
  overrides = []
  for index, argument in enumerate(arguments):
    if argument == '--':
      break
    if (match := _OVERRIDE.fullmatch(argument)) is None:
      continue
    value, following = match['value'], arguments[index + 1 : index + 2]
    if value is None and not match['no'] and following:
      value = None if following[0].startswith('--') else following[0]
    overrides.append(Override(match['key'], value, bool(match['no'])))
  return overrides


class _Parser(flags.ArgumentParser):
  """Reads a config file and sets keys of it."""

  def __init__(self, overrides: Sequence[Override], kinds: Sequence[Any]):
    self.overrides, self.kinds, self.path = overrides, kinds, ''

  def parse(self, argument: str) -> ConfigDict:
    """Return the config; flags.Error, which absl leaves as it is, if there is none."""
    self.path, _, text = argument.partition(':')
    try:
      config = read_config(Path(self.path), *([text] if ':' in argument else []))
      for override in self.overrides:
        set_key(config, override, self.kinds)
    except (ValueError, OSError) as error:
      raise flags.Error(str(error)) from error
    return config

  def flag_type(self) -> str:
    return 'config file'


def read_config(path: Path, *arguments: str) -> ConfigDict:
  """Return what `get_config` of a file returns, locked.

  ValueError or OSError if it cannot be read.
  """
  if path.is_dir():
    raise IsADirectoryError(f'{path} is a folder; name a config file')
  if not path.is_file():
    raise FileNotFoundError(f'{path}: no such config{_suggest_file(path)}')
  spec = importlib.util.spec_from_file_location(f'{_NAME}_file', path)
  if spec is None or spec.loader is None:
    raise ValueError(f'{path} is not a config: its name must end in .py')
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    if not hasattr(module, 'get_config'):
      raise ValueError(f'{path} is not a config: it has no function get_config')
    config = module.get_config(*arguments)
  except Exception as error:
    if isinstance(error, ValueError) and str(path) in str(error):
      raise
    what = f'{type(error).__name__}: {error}'
    raise ValueError(f'{path}{_find_line(path, error)}: {what}') from error
  if isinstance(config, Mapping):
    config = ConfigDict(config)
  if not isinstance(config, ConfigDict):
    raise ValueError(
      f'{path}: get_config returns a {type(config).__name__}, not a ConfigDict'
    )
  return config.lock()


def _suggest_file(path: Path) -> str:
  """Return the nearest name of a config file as a question, or nothing."""
  shipped = Path(__file__).parent.parent.parent / 'configs'
  folders = [path.parent, Path('configs'), shipped]
  files = [file for folder in folders for file in sorted(folder.glob('[a-z]*.py'))]
  near = difflib.get_close_matches(path.stem, [file.stem for file in files], n=1)
  if not near:
    return ''
  return f'; did you mean {next(file for file in files if file.stem == near[0])}?'


def _find_line(path: Path, error: Exception) -> str:
  """Return `, line N` for the last line of a file that an error comes from."""
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if Path(frame.filename).resolve() == path.resolve()
  ]
  if isinstance(error, SyntaxError):
    lines.append(error.lineno)
  return f', line {lines[-1]}' if lines else ''
