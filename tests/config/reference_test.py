# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

from acl_jax.config import reference
from acl_jax.config.experiment import PretrainConfig, TrainConfig, to_json
from tests.tiny_plan import tiny_pretrain_config, tiny_train_config

PAGE = Path(__file__).parent.parent.parent / 'docs/config.md'


def test_the_page_is_up_to_date():
  assert PAGE.read_text() == reference.render(), reference.__doc__


def test_every_key_has_its_row():
  for config, section in (
    (tiny_train_config(), TrainConfig),
    (tiny_pretrain_config(), PretrainConfig),
  ):
    documented = {path for path, _, _ in reference.keys(section)}
    assert set(paths(to_json(config), 'config')) <= documented


def paths(values, path):
  for key, value in values.items():
    yield f'{path}.{key}'
    if isinstance(value, dict):
      yield from paths(value, f'{path}.{key}')
