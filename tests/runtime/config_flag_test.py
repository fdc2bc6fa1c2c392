# SPDX-License-Identifier: Apache-2.0
"""The flag --config: keys in any order, `none`, and one sentence for what is wrong."""

import dataclasses
from typing import Any, Literal

import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.runtime import config_flag
from acl_jax.runtime.config_flag import find_overrides

CONFIG = """
from ml_collections import ConfigDict

def get_config(text='plain'):
  response = dict(remat=None, lr=0.1, warmup=7, on=False, sizes=(3, 5), path='')
  return ConfigDict(dict(seed=2, text=text, response=response, masking=None)).lock()
"""


@dataclasses.dataclass(frozen=True)
class Response:
  remat: Literal['full', 'dots'] | None
  lr: float
  warmup: int
  on: bool
  sizes: tuple[int, ...]
  path: str
  extra: str | None = None


@dataclasses.dataclass(frozen=True)
class Root:
  seed: int
  text: str
  response: Response | None
  masking: dict[str, Any] | None


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  path = tmp_path_factory.mktemp('configs') / 'small.py'
  path.write_text(CONFIG)
  return path


def parse(*arguments, kinds=(Root,)):
  values, argv = flags.FlagValues(), ['program', *map(str, arguments)]
  config_flag.define(*kinds, flag_values=values, argv=argv)
  assert values(argv) == ['program']
  return values.config.to_dict() if values.config else None


@pytest.mark.parametrize('kinds', [(Root,), ()])
@pytest.mark.parametrize(
  'arguments, key, value',
  [
    (['--config.response.remat=full'], 'remat', 'full'),
    (['--config.response.remat=full', '--config.response.remat=none'], 'remat', None),
    (['--config.response.lr=3e-4'], 'lr', 3e-4),
    (['--config.response.lr', '3'], 'lr', 3.0),
    (['--config.response.warmup', '-1'], 'warmup', -1),
    (['-config.response.warmup=9', '--config.response.warmup=8'], 'warmup', 8),
    (['--config.response.on'], 'on', True),
    (['--config.response.on=false'], 'on', False),
    (['--noconfig.response.on'], 'on', False),
    (['--config.response.sizes=(9, 8)'], 'sizes', (9, 8)),
    (['--config.response.sizes=9'], 'sizes', (9,)),
    (['--config.response.path=a=b c'], 'path', 'a=b c'),
    (['--config.response.path=7'], 'path', '7'),
  ],
)
def test_keys_are_set_before_and_after_the_config(path, arguments, key, value, kinds):
  for argv in ([f'--config={path}', *arguments], [*arguments, '--config', path]):
    config = parse(*argv, kinds=kinds)
    assert config['response'].pop(key) == value
    assert config == parse(f'--config={path}') | {'response': config['response']}


def test_sections_are_set_and_removed(path):
  config = parse(
    '--config.response=none', "--config.masking={'width': 3}", '--config', path
  )
  assert config['response'] is None and config['masking'] == {'width': 3}
  assert parse(f'--config={path}:other')['text'] == 'other'
  config = parse(f'--config={path}', '--config.response.extra=none')
  assert config['response']['extra'] is None  # the file does not have it


@pytest.mark.parametrize(
  'arguments, line',
  [
    (
      ['--config.respons.remat=full'],
      'config.respons is not a key; did you mean response?',
    ),
    (
      ['--config.response.rmat=full'],
      'config.response.rmat is not a key; did you mean remat?',
    ),
    (
      ['--config.zzz=1'],
      'config.zzz is not a key; known: masking, response, seed, text',
    ),
    (['--config.seed=many'], "config.seed = 'many' is not an integer"),
    (['--config.seed=none'], "config.seed = 'none' is not an integer"),
    (['--config.seed'], '--config.seed has no value'),
    (['--config.response.lr=x'], "config.response.lr = 'x' is not a number"),
    (['--config.response.on=7'], "config.response.on = '7' is not true or false"),
    (
      ['--config.response=7'],
      "config.response = '7' is not a section such as {'key': 1} or none",
    ),
    (
      ['--config.masking.width=7'],
      'config.masking.width cannot be set: config.masking is None, not a section',
    ),
    (
      ['--config.seed.x=7'],
      'config.seed.x cannot be set: config.seed is 2, not a section',
    ),
  ],
)
def test_a_bad_key_or_value_is_one_sentence(path, arguments, line):
  with pytest.raises(flags.Error) as error:
    parse(*arguments, f'--config={path}')
  assert str(error.value) == line


@pytest.mark.parametrize(
  'name, content, line',
  [
    ('smal.py', None, '{path}: no such config; did you mean {folder}/small.py?'),
    ('xyzxyz.py', None, '{path}: no such config'),
    ('sub', None, '{path} is a folder; name a config file'),
    ('text', '', '{path} is not a config: its name must end in .py'),
    ('a.py', 'x = 1', '{path} is not a config: it has no function get_config'),
    ('b.py', 'def get_config(:', '{path}, line 1: SyntaxError: '),
    ('c.py', '\n1 / 0', '{path}, line 2: ZeroDivisionError: division by zero'),
    (
      'd.py',
      'get_config = lambda: 3',
      '{path}: get_config returns a int, not a ConfigDict',
    ),
  ],
)
def test_a_bad_file_is_one_sentence(path, name, content, line):
  file = path.parent / name
  (path.parent / 'sub').mkdir(exist_ok=True)
  if content is not None:
    file.write_text(content)
  with pytest.raises(flags.Error) as error:
    parse(f'--config={file}')
  if content is not None:
    file.unlink()
  expected = line.format(path=file, folder=path.parent)
  assert str(error.value).startswith(expected) and '\n' not in str(error.value)


@given(st.lists(st.text('a.=-conifg "', max_size=12)))
def test_other_arguments_are_left_alone(arguments):
  found = {override.key for override in find_overrides(arguments)}
  assert found <= {a.lstrip('-').partition('.')[2].partition('=')[0] for a in arguments}
  assert not find_overrides(['--', '--config.a=1'])
