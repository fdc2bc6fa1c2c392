# SPDX-License-Identifier: Apache-2.0
"""The budgets and bans of the house, executed: sizes, headers, who may import whom."""

import ast
import functools
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ('acl_jax', 'data_pipeline', 'configs', 'launch')
SPDX = '# SPDX-License-Identifier: Apache-2.0'
FILE_LINES, FUNCTION_LINES, ARGUMENTS = 250, 60, 8
# The loop is read from top to bottom, so it may be longer than what it calls.
LONGER_FUNCTIONS = {'acl_jax/train.py:main': 120}
# What leaves the package: where it goes its modules know each other by `.x` alone.
EXPORTED = 'acl_jax/exporting/files/'
# Names that say nothing about what is inside.
EMPTY_NAMES = {'utils', 'util', 'common', 'base', 'helpers', 'misc'}

# Imports run one way: a room knows those before it, and no program.
ROOMS = (
  'runtime',
  'assets',
  'data_pipeline',
  'sharding',
  'models',
  'weights',
  'text',
  'generation',
  'config',
  'checkpoints',
  'targets',
  'build_adapter',
  'build',
  'lora',
  'batches',
  'hearing',
  'training',
  'stages',
  'evaluation',
  'exporting',
  'tpu',
  'conversation',
  'assistant',
  'serving',
  'audio_devices',
  'completion',
  'terminal',
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Source(NamedTuple):
  """A file: its path from the root, its text, its syntax tree."""

  path: str
  text: str
  tree: ast.Module

  @property
  def module(self) -> str:
    return self.path.removesuffix('.py').removesuffix('/__init__').replace('/', '.')

  @property
  def is_program(self) -> bool:
    """Whether it ends in `if __name__ == '__main__'`."""
    tests = [ast.dump(node.test) for node in self.tree.body if isinstance(node, ast.If)]
    return any("'__main__'" in test for test in tests)

  def functions(self) -> Iterator[Function]:
    return (node for node in ast.walk(self.tree) if isinstance(node, Function))


@functools.cache
def read(pattern: str) -> tuple[Source, ...]:
  paths = [path for path in sorted(ROOT.glob(pattern)) if path.is_file()]
  texts = [path.read_text() for path in paths]
  return tuple(
    Source(path.relative_to(ROOT).as_posix(), text, ast.parse(text))
    for path, text in zip(paths, texts, strict=True)
  )


def packages() -> list[Source]:
  return [source for name in PACKAGES for source in read(f'{name}/**/*.py')]


def sources() -> list[Source]:
  folders = ('benchmarks/**/*.py', 'plugins/*/*/*.py', '*.py')
  return [*packages(), *(source for each in folders for source in read(each))]


@functools.cache
def imports(source: Source) -> frozenset[str]:
  """Dotted names of what is imported, in functions too; with a.b.c also a.b and a.

  Imports that only a type checker follows do not count.
  """
  names = set()
  typing_only = {
    child
    for node in ast.walk(source.tree)
    if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING'
    for child in ast.walk(node)
  }
  for node in ast.walk(source.tree):
    if node in typing_only:
      continue
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      where = f'{source.path}:{node.lineno}'
      if source.path.startswith(EXPORTED):
        assert 'acl_jax' not in str(node.module), f'{where}: it knows nothing of us'
        if node.level == 1 and node.module:
          continue
      assert node.level == 0, f'{where}: import from acl_jax, not from a dot'
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  parts = [name.split('.') for name in names]
  return frozenset('.'.join(p[:end]) for p in parts for end in range(1, len(p) + 1))


def test_every_file_says_its_licence_and_what_it_is():
  faults = []
  for source in [*sources(), *read('tests/**/*.py')]:
    if not source.text.startswith(SPDX + '\n'):
      faults.append(f'{source.path}: the first line must be {SPDX}')
  for source in sources():
    if not ast.get_docstring(source.tree):
      faults.append(f'{source.path}: a module docstring is missing')
  assert not faults, faults


def test_files_are_short_and_named_for_what_they_hold():
  faults = []
  for source in sources():
    if (lines := source.text.count('\n')) > FILE_LINES:
      faults.append(f'{source.path}: {lines} lines, at most {FILE_LINES}')
    if Path(source.path).stem in EMPTY_NAMES:
      faults.append(f'{source.path}: the name says nothing')
  assert not faults, faults


def test_functions_are_short():
  faults = []
  for source in sources():
    for function in source.functions():
      name = f'{source.path}:{function.name}'
      lines = (function.end_lineno or 0) - function.lineno + 1
      if lines > (limit := LONGER_FUNCTIONS.get(name, FUNCTION_LINES)):
        faults.append(f'{name}: {lines} lines, at most {limit}')
  assert not faults, faults


def test_signatures_are_short():
  faults = []
  for source in sources():
    for function in source.functions():
      a = function.args
      names = {x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs)}
      if (count := len(names - {'self', 'cls'})) > ARGUMENTS:
        faults.append(f'{source.path}:{function.name}: {count} arguments')
  assert not faults, faults


def test_folders_of_modules_are_packages():
  folders = {Path(source.path).parent for source in packages()}
  missing = {str(f) for f in folders if not (ROOT / f / '__init__.py').exists()}
  assert not missing, f'setup.py would leave out {missing}'


def test_setup_names_all_that_is_imported():
  (setup,) = read('setup.py')
  strings = {n.value for n in ast.walk(setup.tree) if isinstance(n, ast.Constant)}
  named = {normal(re.split(r'[\[<>=]', s)[0]) for s in strings if isinstance(s, str)}
  known = importlib.metadata.packages_distributions()
  faults = set()
  for source in packages():
    for name in {n.split('.')[0] for n in imports(source)} - set(PACKAGES):
      if name not in sys.stdlib_module_names:
        if not named & {normal(project) for project in known.get(name, [name])}:
          faults.add(f'{source.path}: {name}')
  assert not faults, faults


def normal(project: str) -> str:
  """The one way to write the name of a project."""
  return re.sub(r'[-_.]+', '-', project).lower()


def test_nothing_imports_a_program():
  programs = {source.module for source in packages() if source.is_program}
  faults = {s.path: imports(s) & programs for s in packages() if imports(s) & programs}
  assert not faults, faults


def room_of(module: str) -> str:
  """Where a module is: `data_pipeline`, or a folder or file of acl_jax."""
  first, *rest = module.split('.')
  return rest[0] if first == 'acl_jax' and rest else first


def test_imports_run_one_way():
  """A room imports those before it in `ROOMS`, and itself."""
  faults = []
  for source in [*read('acl_jax/**/*.py'), *read('data_pipeline/**/*.py')]:
    room = room_of(source.module)
    if source.path.startswith(EXPORTED) or room not in ROOMS:
      continue  # a program, or the package itself
    allowed = {*ROOMS[: ROOMS.index(room) + 1], 'acl_jax'}
    for name in imports(source):
      if name.split('.')[0] in ('acl_jax', 'data_pipeline'):
        if (other := room_of(name)) in ROOMS and other not in allowed:
          faults.append(f'{source.path}: {name}')
  assert not faults, faults


def test_every_room_has_its_place():
  rooms = {room_of(s.module) for s in read('acl_jax/**/*.py') if not s.is_program}
  assert rooms - {'acl_jax'} <= set(ROOMS), rooms - set(ROOMS)


def test_the_data_pipeline_does_not_know_flax():
  for source in read('data_pipeline/**/*.py'):
    assert not {name for name in imports(source) if name.split('.')[0] == 'flax'}


def test_models_know_neither_config_nor_data_nor_programs():
  outside = {'absl', 'data_pipeline', 'configs', 'grain', 'ml_collections', 'orbax'}
  faults = {s.path: imports(s) & outside for s in read('acl_jax/models/**/*.py')}
  assert not any(faults.values()), faults


@pytest.mark.full
@pytest.mark.parametrize('module', ['acl_jax.train', 'data_pipeline.loader'])
def test_training_imports_neither_torch_nor_tensorflow(module):
  if importlib.util.find_spec(module) is None:
    pytest.skip(f'there is no {module}')
  code = (
    f'import sys, {module}; print(*(sys.modules.keys() & {{"torch", "tensorflow"}}))'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.split() == []
