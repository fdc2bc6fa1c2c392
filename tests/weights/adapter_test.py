# SPDX-License-Identifier: Apache-2.0
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from acl_jax.models.adapters import StrideAdapter, StrideAdapterConfig
from acl_jax.models.attention_adapter import AttentionAdapter, AttentionAdapterConfig
from acl_jax.models.ctc import CTCAdapter, CTCAdapterConfig
from acl_jax.models.lora import LoRAConfig, apply_lora, wrapped_matrices
from acl_jax.weights import safetensors
from acl_jax.weights.adapter import load_adapter, save_adapter

CTC_CONFIG = CTCAdapterConfig(
  stack=4,
  encoder_size=5,
  letter_hidden_size=10,
  letter_layers=3,
  hidden_size=8,
  num_layers=2,
  kernel_size=4,
  dropout=0.5,
  llm_size=6,
  vocabulary_size=4,
  spelling_size=3,
)


CONFIGS = {
  'ctc': (CTCAdapter, CTC_CONFIG),
  'projector': (StrideAdapter, StrideAdapterConfig(3, 5, 14, 6)),
  'linear': (StrideAdapter, StrideAdapterConfig(3, 5, None, 6)),
}


def build(kind):
  """Build an adapter with random parameters; integers stay below 50."""
  adapter_class, config = CONFIGS[kind]
  shapes = jax.eval_shape(lambda: adapter_class(config, rngs=nnx.Rngs(0)))
  random = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: jnp.asarray(random.normal(10, 3, x.shape), x.dtype), shapes
  )


@pytest.mark.parametrize('kind', ['ctc', 'projector', 'linear'])
def test_a_round_trip_changes_nothing(kind, tmp_path):
  adapter, path = build(kind), tmp_path / 'a.safetensors'
  save_adapter(path, adapter)
  loaded = load_adapter(path)
  assert type(loaded) is type(adapter) and loaded.config == adapter.config
  jax.tree.map(np.testing.assert_array_equal, nnx.state(loaded), nnx.state(adapter))
  assert list(tmp_path.iterdir()) == [path]
  save_adapter(tmp_path / 'b.safetensors', loaded)
  assert (tmp_path / 'b.safetensors').read_bytes() == path.read_bytes()


def test_float16_on_disk_is_float32_in_memory(tmp_path):
  adapter, path = build('ctc'), tmp_path / 'a.safetensors'
  save_adapter(path, adapter, np.float16)
  dtypes = {name: array.dtype for name, array in load_file(path).items()}
  assert dtypes.pop('vocabulary') == np.int32
  assert dtypes.pop('spelling/letters') == np.uint8
  assert set(dtypes.values()) == {np.dtype(np.float16)}
  leaves = jax.tree.leaves(load_adapter(path)), jax.tree.leaves(adapter)
  for actual, expected in zip(*leaves, strict=True):
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('value, dtype', [(np.nan, np.float32), (1e6, np.float16)])
def test_values_that_are_not_finite_are_not_saved(value, dtype, tmp_path):
  adapter, path = build('ctc'), tmp_path / 'a.safetensors'
  adapter.bias[...] = adapter.bias[...].at[2].set(value)
  with pytest.raises(ValueError, match=rf'\bbias\b.*{np.dtype(dtype)}'):
    save_adapter(path, adapter, dtype)
  assert not path.exists()


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """The content of a CTC adapter's file."""
  path = tmp_path_factory.mktemp('adapter') / 'a.safetensors'
  save_adapter(path, build('ctc'))
  return path.read_bytes()


def alter(path, change_tensors, change_config):
  """Change tensors and config entries in the file of an adapter; None removes one."""
  with safe_open(path, 'np') as file:
    config = json.loads(file.metadata()['adapter'])
  tensors = load_file(path) | change_tensors
  config |= change_config
  tensors = {name: array for name, array in tensors.items() if array is not None}
  config = {name: value for name, value in config.items() if value is not None}
  save_file(tensors, path, metadata={'adapter': json.dumps(config)})


@pytest.mark.parametrize(
  'tensors, config, message',
  [
    ({'layers/conv': None}, {}, 'layers/conv'),
    ({'stray': np.ones(3)}, {}, r"\['stray'\]"),
    ({'bias': np.ones(4, np.float32)}, {}, r'bias .*\(4,\).*\(5,\)'),
    ({}, {'num_layers': 3}, r'layers/.*\(2, .*\(3, '),
    ({}, {'kind': 'lora'}, 'header .*kind ctc or stride'),
    ({}, {'kind': ['ctc']}, 'header .*kind ctc or stride'),
    ({}, {'heads': 3}, "header .*'heads'"),
    ({}, {'stack': None}, "header .*'stack'"),
    ({}, {'hidden_size': -3}, 'header .*-3'),
    ({}, {'hidden_size': 'wide'}, 'header'),
  ],
)
def test_an_inconsistent_file_is_refused(saved, tmp_path, tensors, config, message):
  path = tmp_path / 'a.safetensors'
  path.write_bytes(saved)
  alter(path, tensors, config)
  with pytest.raises(ValueError, match=message) as error:
    load_adapter(path)
  assert str(path) in str(error.value)


@pytest.mark.parametrize('header', [None, '', 'null', '{"kind": ', '[1]'])
def test_a_header_without_an_adapter_is_refused(tmp_path, header):
  path = tmp_path / 'a.safetensors'
  metadata = None if header is None else {'adapter': header}
  save_file({'x': np.ones(3)}, path, metadata=metadata)
  with pytest.raises(ValueError, match='a.safetensors: '):
    load_adapter(path)


def test_a_missing_file_is_an_error(tmp_path):
  with pytest.raises((ValueError, FileNotFoundError), match='a.safetensors'):
    load_adapter(tmp_path / 'a.safetensors')


@pytest.fixture(scope='module')
def linear_file(tmp_path_factory):
  path = tmp_path_factory.mktemp('linear') / 'a.safetensors'
  save_adapter(path, build('linear'))
  return path.read_bytes()


@given(data=st.data())
@settings(max_examples=50)
def test_a_damaged_file_loads_or_names_the_path(linear_file, tmp_path_factory, data):
  path = tmp_path_factory.mktemp('damaged') / 'a.safetensors'
  content = bytearray(linear_file)
  if data.draw(st.booleans()):
    content = content[: data.draw(st.integers(0, len(content) - 1))]
  else:
    position = data.draw(st.integers(0, 300))
    content[position] = data.draw(st.integers(0, 255))
  path.write_bytes(content)
  try:
    load_adapter(path)
  except ValueError as error:
    assert str(path) in str(error)


ATTENTION = AttentionAdapterConfig(
  d_model=8,
  decoder_layers=2,
  decoder_attention_heads=2,
  decoder_ffn_dim=10,
  max_target_positions=17,
  stack=4,
  encoder_size=5,
  start_length=3,
  llm_size=6,
  vocabulary_size=9,
)


def make_whisper(seed=1):
  return AttentionAdapter(ATTENTION, rngs=nnx.Rngs(seed))


@pytest.fixture
def updates(tmp_path):
  """A file of low-rank updates without their base, and the adapter that it is of."""
  adapter = make_whisper()
  targets = ('encoder_attn.q_proj', 'embed_tokens')
  apply_lora(adapter, LoRAConfig(2, 3.0, 0.0, targets), rngs=nnx.Rngs(0))
  for matrix in wrapped_matrices(adapter).values():
    matrix.lora_B[...] += 0.5
  adapter.gate[...] += 2
  save_adapter(tmp_path / 'updates', adapter, base='asset:whisper')
  return tmp_path / 'updates', adapter


def test_low_rank_updates_are_stored_without_their_base(updates):
  path, adapter = updates
  names = set(safetensors.read_file(path, dtypes=safetensors.DTYPES))
  new = {'gate', 'gate_bias', 'log_temperature', 'linear', 'vocabulary'}
  assert {name for name in names if '/lora_' not in name} == new
  assert len(names) == 2 * 2 + len(new)
  asked = []

  def make_base(base, sizes):
    asked.append((base, sizes))
    return make_whisper()

  loaded = load_adapter(path, make_base)
  assert asked == [('asset:whisper', ATTENTION)]
  jax.tree.map(np.testing.assert_array_equal, nnx.state(loaded), nnx.state(adapter))


def test_another_base_is_refused(updates):
  path, _ = updates
  with pytest.raises(ValueError, match=r'another base than asset:whisper .*sha256'):
    load_adapter(path, lambda *_: make_whisper(seed=2))
  with pytest.raises(ValueError, match='what LoRA changed in asset:whisper'):
    load_adapter(path)


@pytest.mark.parametrize('base', [3, {'path': 'x'}, {'path': 4, 'sha256': 'x'}])
def test_a_bad_base_is_named(updates, tmp_path, base):
  path, _ = updates
  metadata = safetensors.read_metadata(path) | {'base': json.dumps(base)}
  del metadata[safetensors.SHA256]
  tensors = safetensors.read_file(path, dtypes=safetensors.DTYPES)
  safetensors.write_file(tmp_path / 'bad', [*tensors.items()], metadata)
  with pytest.raises(ValueError, match='the `base` in the header is not valid'):
    load_adapter(tmp_path / 'bad', lambda *_: make_whisper())
