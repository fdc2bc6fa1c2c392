# SPDX-License-Identifier: Apache-2.0
import dataclasses
from typing import Literal

import pytest
from ml_collections import ConfigDict

from acl_jax.config.experiment import (
  parse_experiment,
  parse_pretrain,
  parse_train,
  to_json,
)
from acl_jax.config.parsing import parse
from acl_jax.config.sections import format_mixture, parse_mixture
from tests.tiny_plan import tiny_pretrain_config, tiny_train_config
from tests.tiny_world import change


@dataclasses.dataclass(frozen=True)
class Left:
  kind: Literal['left']
  width: int


@dataclasses.dataclass(frozen=True)
class Right:
  kind: Literal['right']
  share: float = 0.5


@dataclasses.dataclass(frozen=True)
class Root:
  rate: float
  names: tuple[str, ...]
  pair: tuple[str, float]
  side: Left | Right
  limit: int | None

  def __post_init__(self):
    if self.rate > 9:
      raise ValueError(f'rate = {self.rate} is above 9')


VALUES = {
  'rate': 1,
  'names': ['a', 'b'],
  'pair': ('c', 2),
  'side': {'kind': 'left', 'width': 3},
  'limit': None,
}


LORA = {'rank': 2, 'alpha': 4.0, 'dropout': 0.0, 'targets': ('q_proj',)}


def test_values_become_the_types_of_the_fields():
  root = parse(Root, ConfigDict(VALUES).to_dict())
  assert root == Root(1.0, ('a', 'b'), ('c', 2.0), Left('left', 3), None)
  assert type(root.rate) is float and type(root.pair[1]) is float
  assert parse(Root, VALUES | {'side': {'kind': 'right'}}).side == Right('right', 0.5)


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'rat': 2}, r'config\.rat is not a key.*rate'),
    ({'zzz': 2}, r'config\.zzz is not a key.*names'),
    ({'rate': 'x'}, r"config\.rate = 'x'"),
    ({'rate': True}, r'config\.rate = True'),
    ({'rate': 10}, r'config: rate = 10\.0 is above 9'),
    ({'limit': 2.5}, r'config\.limit = 2\.5'),
    ({'names': 'ab'}, r"config\.names = 'ab'"),
    ({'names': ('a', 3)}, r'config\.names\[1\] = 3'),
    ({'pair': ('c',)}, r'config\.pair .* 2 elements'),
    ({'side': None}, r'config\.side = None'),
    ({'side': {'kind': 'up'}}, r"config\.side\.kind is 'up'; known: left, right"),
    ({'side': {'kind': 'left'}}, r'config\.side\.width is missing'),
    ({'side': {'kind': 'left', 'width': 1, 'share': 2}}, r'config\.side\.share'),
  ],
)
def test_errors_name_the_path(changes, message):
  with pytest.raises(ValueError, match=message):
    parse(Root, VALUES | changes)


def test_missing_keys_are_named():
  with pytest.raises(ValueError, match=r'config\.limit is missing'):
    parse(Root, {key: value for key, value in VALUES.items() if key != 'limit'})


@pytest.mark.parametrize('config', [tiny_train_config(), tiny_pretrain_config()])
def test_json_round_trip(config):
  assert parse_experiment(to_json(config)) == config
  assert hash(config) == hash(parse_experiment(to_json(config)))


def test_programs_refuse_the_config_of_the_other_kind():
  with pytest.raises(ValueError, match=r'config\.llama is missing'):
    parse_train(to_json(tiny_pretrain_config()))
  with pytest.raises(ValueError, match=r'config\.llama'):
    parse_pretrain(to_json(tiny_train_config()))


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'data.copies': 0}, r'config\.data\.copies = 0'),
    ({'data.row_tokens': None}, r'config\.data\.row_tokens is None'),
    ({'data.row_frames': None}, r'config\.data .*row_frames.*buckets'),
    ({'targets.batch_size': 0}, r'config\.targets\.batch_size is 0'),
    ({'targets.cache_dtype': 'int4'}, r"config\.targets\.cache_dtype is 'int4'"),
    ({'targets.sampling.top_p': 2.0}, r'top_p is 2\.0'),
    ({'encoder.trains': True}, r'config\.encoder\.trains is True; known: none, lora'),
    ({'encoder.trains': 'lora'}, r"encoder: trains is 'lora' and lora is not set"),
    ({'encoder.lora': LORA}, r"encoder: trains is 'full' and lora is set"),
    ({'llama.lora': LORA | {'rank': 0}}, r'config\.llama\.lora: rank = 0'),
    ({'llama.lora': LORA, 'llama.dtype': 'int8'}, r"config\.llama: .*it is 'int8'"),
    ({'encoder.layer_lr_decay': 1.1}, r'config\.encoder: layer_lr_decay = 1\.1'),
    (
      {'encoder.kind': 'conformer', 'encoder.trailing_silence': 2.0},
      r'config\.encoder: trailing_silence = 2\.0',
    ),
    ({'data.train': 'a*b'}, r"config\.data\.train = 'a\*b'"),
  ],
)
def test_values_out_of_range_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    change(tiny_train_config(), **changes)


def test_a_ctc_adapter_needs_its_stage():
  adapter = dict(
    kind='ctc',
    stack=2,
    letter_hidden_size=0,
    letter_layers=0,
    hidden_size=8,
    num_layers=1,
    kernel_size=3,
    dropout=0.0,
    spelling_size=4,
  )
  with pytest.raises(ValueError, match=r'config\.ctc is None'):
    change(tiny_train_config(), adapter=adapter)


def test_mixtures_are_written_as_they_are_read():
  mixture = (('one', 3.0), ('other', 1.0), ('third', 1.5))
  assert format_mixture(mixture) == 'one*3,other,third*1.5'
  assert parse_mixture('one*3, other,third*1.5') == mixture
