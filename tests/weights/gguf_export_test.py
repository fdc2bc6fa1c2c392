# SPDX-License-Identifier: Apache-2.0
"""Llamas written as GGUF, read by our reader and by the gguf package."""

import dataclasses

import gguf
import numpy as np
import pytest

from acl_jax.models.rope import RopeScaling
from acl_jax.weights import gguf_write
from acl_jax.weights.gguf_export import describe_llama, export_llama
from acl_jax.weights.gguf_write import Kind, Stored, write
from acl_jax.weights.llama import convert_to_huggingface, open_llama
from acl_jax.weights.tensor import Tensor
from tests import tiny_llama
from tests.models import families
from tests.weights import gguf_families

EXPRESSIBLE = [name for name in families.FAMILIES if 'window' not in name]


def read_all(source):
  return {name: tensor.read() for name, tensor in convert_to_huggingface(source)}


def convert(name, folder, kind=Kind.F32):
  """Save a family's model, and convert it; returns both, opened."""
  gguf_families.build(name).save_pretrained(folder)
  source = open_llama(folder)
  write(folder / 'x.gguf', describe_llama(source.config), export_llama(source, kind))
  return source, open_llama(folder / 'x.gguf')


@pytest.mark.parametrize('name', EXPRESSIBLE)
def test_every_family_is_written_to_the_bit(name, tmp_path):
  source, written = convert(name, tmp_path)
  expected, actual = read_all(source), read_all(written)
  assert expected.keys() == actual.keys()
  for key, array in expected.items():
    np.testing.assert_array_equal(actual[key], array, err_msg=key)
  config = source.config
  if name == 'mistral':  # a Llama to llama.cpp
    config = dataclasses.replace(config, model_type='llama')
  assert written.config == config
  names = {t.name for t in gguf.GGUFReader(tmp_path / 'x.gguf').tensors}
  assert ('rope_freqs.weight' in names) == name.startswith('llama3.')


@pytest.mark.parametrize(
  'kind, tolerance', [(Kind.F16, 2e-3), (Kind.BF16, 1e-2), (Kind.Q8_0, 2e-3)]
)
def test_matrices_are_rounded_and_vectors_are_not(kind, tolerance, tmp_path):
  source, written = convert('llama3', tmp_path, kind)
  expected, actual = read_all(source), read_all(written)
  for key, array in expected.items():
    atol = tolerance if array.ndim == 2 else 0
    np.testing.assert_allclose(actual[key], array, atol=atol, rtol=0, err_msg=key)
  kinds = {t.name: t.tensor_type for t in gguf.GGUFReader(tmp_path / 'x.gguf').tensors}
  # Rows of 24 and 40 values are no multiple of a block of 32.
  assert kinds['blk.0.ffn_up.weight'] == (Kind.F16 if kind == Kind.Q8_0 else kind)
  assert kinds['output_norm.weight'] == Kind.F32


def test_blocks_are_those_of_the_gguf_package(tmp_path):
  array = np.random.default_rng(0).normal(0, 1, (5, 96)).astype(np.float32)
  stored = Stored('a', Tensor.from_array(array), Kind.Q8_0)
  write(tmp_path / 'x.gguf', {'general.architecture': 'llama'}, [stored])
  (tensor,) = gguf.GGUFReader(tmp_path / 'x.gguf').tensors
  assert tensor.n_bytes == stored.nbytes == 5 * 3 * 34
  np.testing.assert_array_equal(tensor.data, gguf.quantize(array, Kind.Q8_0))


@pytest.mark.parametrize(
  'changes, match',
  [
    ({'sliding_window': 5, 'model_type': 'mistral'}, 'sliding_window = 5 cannot'),
    ({'no_rope_layers': (1,)}, r'no_rope_layers = \(1,\) cannot'),
    ({'qk_norm': True}, 'qk_norm = True cannot be exported.*architecture llama'),
    ({'rope_scaling': RopeScaling('dynamic', factor=2.0)}, 'rope_scaling = .*dynamic'),
    (
      {'rope_scaling': RopeScaling('yarn', factor=2.0, attention_factor=1.5)},
      "rope_scaling = .*'attention_factor': 1.5.* cannot",
    ),
  ],
)
def test_what_llama_cpp_does_not_compute_is_refused(changes, match):
  with pytest.raises(ValueError, match=match):
    describe_llama(dataclasses.replace(tiny_llama.CONFIG, **changes))


@pytest.mark.parametrize(
  'value, kind, match',
  [
    (1e5, Kind.F16, 'a has values that F16 cannot .* above 65504'),
    (np.nan, Kind.Q8_0, 'a has values that Q8_0 cannot'),
  ],
)
def test_values_that_a_type_lacks_are_refused(value, kind, match, tmp_path):
  array = np.full((3, 32), value, np.float32)
  with pytest.raises(ValueError, match=match):
    stored = Stored('a', Tensor.from_array(array), kind)
    write(tmp_path / 'x.gguf', {'general.architecture': 'llama'}, [stored])
  assert not list(tmp_path.iterdir())


def test_long_metadata_are_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(gguf_write, 'MAX_METADATA_BYTES', 1_000)
  metadata = {'general.architecture': 'llama', 'tokens': ['a'] * 20}
  with pytest.raises(ValueError, match=r'x\.gguf: the metadata .* limit is 1000'):
    write(tmp_path / 'x.gguf', metadata, [])
  assert not list(tmp_path.iterdir())
