# SPDX-License-Identifier: Apache-2.0
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from acl_jax.models.adapters import StrideAdapter, StrideAdapterConfig
from acl_jax.models.ctc import CTCAdapter, CTCAdapterConfig
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


def build(kind):
  rngs = nnx.Rngs(0)
  if kind == 'ctc':
    adapter = CTCAdapter(CTC_CONFIG, rngs=rngs)
    adapter.vocabulary[...] = jnp.asarray([7, 2, 9, 4])
  else:
    hidden = 14 if kind == 'projector' else None
    adapter = StrideAdapter(StrideAdapterConfig(3, 5, hidden, 6), rngs=rngs)
  return adapter


@pytest.mark.parametrize('kind', ['ctc', 'projector', 'linear'])
def test_what_is_loaded_is_what_was_saved(kind, tmp_path):
  adapter, path = build(kind), tmp_path / 'a.safetensors'
  save_adapter(path, adapter)
  again = load_adapter(path)
  assert type(again) is type(adapter) and again.config == adapter.config
  jax.tree.map(np.testing.assert_array_equal, nnx.state(again), nnx.state(adapter))
  assert list(tmp_path.iterdir()) == [path]
  save_adapter(tmp_path / 'b.safetensors', again)
  assert (tmp_path / 'b.safetensors').read_bytes() == path.read_bytes()


def test_half_the_size_on_disk_and_float32_in_memory(tmp_path):
  adapter, path = build('ctc'), tmp_path / 'a.safetensors'
  save_adapter(path, adapter, np.float16)
  kinds = {name: array.dtype for name, array in load_file(path).items()}
  assert kinds.pop('vocabulary') == np.int32
  assert kinds.pop('spelling/letters') == np.uint8
  assert set(kinds.values()) == {np.dtype(np.float16)}
  for ours, theirs in zip(
    jax.tree.leaves(load_adapter(path)), jax.tree.leaves(adapter), strict=True
  ):
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('value, dtype', [(np.nan, np.float32), (1e6, np.float16)])
def test_what_is_not_finite_is_not_saved(value, dtype, tmp_path):
  adapter, path = build('ctc'), tmp_path / 'a.safetensors'
  adapter.bias[...] = adapter.bias[...].at[2].set(value)
  with pytest.raises(ValueError, match=f'bias is not finite as {np.dtype(dtype)}'):
    save_adapter(path, adapter, dtype)
  assert not path.exists()


def altered(tmp_path, change_tensors=None, change_config=None):
  """The file of a good adapter with some of its content changed; None takes it out."""
  path = tmp_path / 'a.safetensors'
  save_adapter(path, build('ctc'))
  with safe_open(path, 'np') as file:
    config = json.loads(file.metadata()['adapter'])
  tensors = load_file(path) | (change_tensors or {})
  config |= change_config or {}
  tensors = {name: array for name, array in tensors.items() if array is not None}
  config = {name: value for name, value in config.items() if value is not None}
  save_file(tensors, path, metadata={'adapter': json.dumps(config)})
  return path


@pytest.mark.parametrize(
  'tensors, config, message',
  [
    ({'layers/conv': None}, {}, 'layers/conv is missing'),
    ({'stray': np.ones(3)}, {}, r"nothing takes \['stray'\]"),
    ({'bias': np.ones(4, np.float32)}, {}, r'bias has shape \(4,\), not \(5,\)'),
    ({}, {'num_layers': 3}, 'has shape'),
    ({}, {'kind': 'lora'}, 'its header describes no adapter'),
    ({}, {'kind': ['ctc']}, 'its header describes no adapter'),
    ({}, {'heads': 3}, 'its header and this version disagree'),
    ({}, {'stack': None}, 'its header and this version disagree'),
    ({}, {'hidden_size': -3}, 'its header and this version disagree'),
    ({}, {'hidden_size': 'wide'}, 'its header and this version disagree'),
  ],
)
def test_a_file_that_does_not_fit_together_is_refused(
  tmp_path, tensors, config, message
):
  path = altered(tmp_path, tensors, config)
  with pytest.raises(ValueError, match=message) as error:
    load_adapter(path)
  assert str(path) in str(error.value)


@pytest.mark.parametrize('header', [None, '', 'null', '{"kind": ', '[1]'])
def test_a_file_without_a_header_of_ours_is_refused(tmp_path, header):
  path = tmp_path / 'a.safetensors'
  metadata = None if header is None else {'adapter': header}
  save_file({'x': np.ones(3)}, path, metadata=metadata)
  with pytest.raises(ValueError, match='a.safetensors: '):
    load_adapter(path)


def test_no_file(tmp_path):
  with pytest.raises((ValueError, FileNotFoundError), match='a.safetensors'):
    load_adapter(tmp_path / 'a.safetensors')


@given(data=st.data())
def test_a_damaged_file_is_one_clear_error(tmp_path_factory, data):
  path = tmp_path_factory.mktemp('damaged') / 'a.safetensors'
  save_adapter(path, build('linear'))
  content = bytearray(path.read_bytes())
  if data.draw(st.booleans()):
    content = content[: data.draw(st.integers(0, len(content) - 1))]
  else:
    place = data.draw(st.integers(0, 300))
    content[place] = data.draw(st.integers(0, 255))
  path.write_bytes(content)
  try:
    load_adapter(path)
  except ValueError as error:
    assert str(path) in str(error)
