# SPDX-License-Identifier: Apache-2.0
import json

import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from acl_jax.weights import safetensors
from acl_jax.weights.llama import load_llama, save_llama
from acl_jax.weights.tensor import Tensor
from tests import tiny_llama
from tests.tiny_llama import CONFIG, VARIANTS


@pytest.fixture
def folder(tmp_path):
  save_llama(tiny_llama.build(), tmp_path)
  return tmp_path


def edit(path, **changes):
  """Set keys of a JSON file; None removes one."""
  config = json.loads(path.read_text()) | changes
  config = {key: value for key, value in config.items() if value is not None}
  path.write_text(json.dumps(config))


@pytest.mark.parametrize('variant', VARIANTS)
def test_a_model_of_transformers_has_the_same_logits_here(variant, tmp_path):
  reference = tiny_llama.build_reference(VARIANTS[variant])
  reference.save_pretrained(tmp_path, max_shard_size='8KB')
  assert (tmp_path / 'model.safetensors.index.json').exists()
  model = load_llama(tmp_path)
  assert model.config == VARIANTS[variant]
  tokens = tiny_llama.tokens()
  expected = tiny_llama.reference_logits(reference, tokens)
  actual = tiny_llama.logits(model, tokens)
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('variant', VARIANTS)
def test_our_model_has_the_same_logits_in_transformers(variant, tmp_path):
  model = tiny_llama.build(VARIANTS[variant])
  save_llama(model, tmp_path)
  reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
  tokens = tiny_llama.tokens()
  expected = tiny_llama.logits(model, tokens)
  actual = tiny_llama.reference_logits(reference, tokens)
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_a_round_trip_is_exact(dtype, tmp_path):
  save_llama(tiny_llama.build(), tmp_path / 'once')
  once = load_llama(tmp_path / 'once', jnp.dtype(dtype))
  save_llama(once, tmp_path / 'twice')
  tiny_llama.assert_equal(once, load_llama(tmp_path / 'twice', jnp.dtype(dtype)))
  assert once.embed_tokens.dtype == dtype
  config = json.loads((tmp_path / 'twice/config.json').read_text())
  assert config['torch_dtype'] == dtype


def test_rope_theta_is_read_from_either_key(folder):
  edit(folder / 'config.json', rope_theta=None)
  assert load_llama(folder).config == CONFIG
  edit(folder / 'config.json', rope_theta=500, rope_parameters=None)
  assert load_llama(folder).config == CONFIG
  edit(folder / 'config.json', rope_theta=None)
  assert load_llama(folder).config.rope_theta == 10_000  # as in Llama-2's file


def test_defaults_are_those_of_transformers(folder):
  edit(folder / 'config.json', head_dim=None, rms_norm_eps=None)
  edit(folder / 'config.json', tie_word_embeddings=None)
  expected = transformers.LlamaConfig.from_pretrained(folder)
  config = load_llama(folder).config
  assert config.rms_norm_eps == expected.rms_norm_eps
  assert config.head_dim == expected.head_dim
  assert config.tie_word_embeddings == expected.tie_word_embeddings


@pytest.mark.parametrize(
  'change',
  [
    {'attention_bias': True},
    {'mlp_bias': True},
    {'hidden_act': 'gelu'},
    {'sliding_window': 4096},
    {'rope_scaling': {'rope_type': 'linear', 'factor': 2.0}},
    {'rope_parameters': {'rope_type': 'llama3', 'rope_theta': 500.0}},
    {'rope_parameters': {'rope_type': 'default', 'rope_theta': 501.0}},
    {'rope_parameters': {'rope_theta': 500.0, 'low_freq_factor': 1.0}},
    {'rope_parameters': 500.0},
    {'model_type': 'phi3'},
    {'quantization_config': {'bits': 4}},
    {'num_experts': 8},
    {'num_key_value_heads': 3},
    {'hidden_size': '24'},
    {'hidden_size': 10**12},
    {'num_hidden_layers': 10**12},
    {'vocab_size': None},
  ],
  ids=str,
)
def test_an_unsupported_model_is_refused_by_name(change, folder):
  edit(folder / 'config.json', **change)
  with pytest.raises(ValueError) as error:
    load_llama(folder)
  key, value = next(iter(change.items()))
  names = [key, *(value if isinstance(value, dict) else ())]
  if key == 'num_hidden_layers':
    names = ['layers']
  if key == 'hidden_size':
    names += ['shape']
  assert any(name in str(error.value) for name in names)
  assert str(folder) in str(error.value)


def test_rope_frequencies_and_a_second_tied_matrix_are_ignored(tmp_path):
  """Old files of Llama-2 contain them."""
  model = tiny_llama.build(VARIANTS['tied'])
  save_llama(model, tmp_path)
  tensors = {
    name: Tensor.from_array(tensor.read())
    for name, tensor in safetensors.read(tmp_path).items()
  }
  frequencies = 'model.layers.0.self_attn.rotary_emb.inv_freq'
  tensors[frequencies] = Tensor.from_array(np.ones(3, np.float32))
  tensors['lm_head.weight'] = tensors['model.embed_tokens.weight']
  safetensors.write(tmp_path, tensors.items())
  tiny_llama.assert_equal(load_llama(tmp_path), model)


def test_a_head_of_its_own_is_kept_although_the_config_says_tied(tmp_path):
  """Transformers 5 keeps it, too."""
  model = tiny_llama.build()
  save_llama(model, tmp_path)
  edit(tmp_path / 'config.json', tie_word_embeddings=True)
  tiny_llama.assert_equal(load_llama(tmp_path), model)


def test_shards_need_no_index(tmp_path):
  tiny_llama.build_reference().save_pretrained(tmp_path, max_shard_size='8KB')
  expected = load_llama(tmp_path)
  (tmp_path / 'model.safetensors.index.json').unlink()
  tiny_llama.assert_equal(load_llama(tmp_path), expected)


@pytest.mark.parametrize('text', ['', '[]', '{', '[' * 100_000, '\x00'])
def test_a_config_that_is_not_a_json_object_is_refused(text, folder):
  (folder / 'config.json').write_text(text)
  with pytest.raises(ValueError, match='config.json'):
    load_llama(folder)
