# SPDX-License-Identifier: Apache-2.0
import json

import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from acl_jax.weights import safetensors
from acl_jax.weights.llama import load_llama, save_llama_hf
from acl_jax.weights.table import Tensor
from tests import tiny_llama
from tests.tiny_llama import CONFIG, VARIANTS


@pytest.fixture
def folder(tmp_path):
  save_llama_hf(tiny_llama.build(), tmp_path)
  return tmp_path


def edit(path, **changes):
  """Sets keys of a JSON file; None removes one."""
  found = json.loads(path.read_text()) | changes
  path.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))


@pytest.mark.parametrize('variant', VARIANTS)
def test_theirs_gives_the_same_logits_here(variant, tmp_path):
  theirs = tiny_llama.build_reference(VARIANTS[variant])
  theirs.save_pretrained(tmp_path, max_shard_size='8KB')
  assert (tmp_path / 'model.safetensors.index.json').exists()
  ours = load_llama(tmp_path)
  assert ours.config == VARIANTS[variant]
  tokens = tiny_llama.tokens()
  want = tiny_llama.reference_logits(theirs, tokens)
  np.testing.assert_allclose(
    tiny_llama.logits(ours, tokens), want, rtol=1e-4, atol=1e-4
  )


@pytest.mark.parametrize('variant', VARIANTS)
def test_ours_gives_the_same_logits_there(variant, tmp_path):
  ours = tiny_llama.build(VARIANTS[variant])
  save_llama_hf(ours, tmp_path)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
  tokens = tiny_llama.tokens()
  want = tiny_llama.logits(ours, tokens)
  got = tiny_llama.reference_logits(theirs, tokens)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_a_round_trip_changes_no_bit(dtype, tmp_path):
  save_llama_hf(tiny_llama.build(), tmp_path / 'once')
  once = load_llama(tmp_path / 'once', jnp.dtype(dtype))
  save_llama_hf(once, tmp_path / 'twice')
  tiny_llama.assert_equal(once, load_llama(tmp_path / 'twice', jnp.dtype(dtype)))
  assert once.embed_tokens.dtype == dtype
  assert (
    json.loads((tmp_path / 'twice/config.json').read_text())['torch_dtype'] == dtype
  )


def test_rope_theta_may_be_said_in_either_way(folder):
  edit(folder / 'config.json', rope_theta=None)
  assert load_llama(folder).config == CONFIG
  edit(folder / 'config.json', rope_theta=500, rope_parameters=None)
  assert load_llama(folder).config == CONFIG
  edit(folder / 'config.json', rope_theta=None)
  assert load_llama(folder).config.rope_theta == 10_000  # as of Llama-2's own file


def test_what_may_be_left_out_is_what_transformers_takes(folder):
  edit(folder / 'config.json', head_dim=None, rms_norm_eps=None)
  edit(folder / 'config.json', tie_word_embeddings=None)
  theirs = transformers.LlamaConfig.from_pretrained(folder)
  ours = load_llama(folder).config
  assert ours.rms_norm_eps == theirs.rms_norm_eps
  assert ours.head_dim == theirs.head_dim
  assert ours.tie_word_embeddings == theirs.tie_word_embeddings


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
    {'model_type': 'mistral'},
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
def test_what_would_be_another_model_is_refused_by_name(change, folder):
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


def test_frequencies_and_a_second_tied_matrix_are_dropped(tmp_path):
  """Old files of Llama-2 hold them."""
  model = tiny_llama.build(VARIANTS['tied'])
  save_llama_hf(model, tmp_path)
  read = {name: t.read() for name, t in safetensors.read(tmp_path).items()}
  tensors = {name: Tensor.of(array) for name, array in read.items()}
  frequencies = 'model.layers.0.self_attn.rotary_emb.inv_freq'
  tensors[frequencies] = Tensor.of(np.ones(3, np.float32))
  tensors['lm_head.weight'] = tensors['model.embed_tokens.weight']
  safetensors.write(tmp_path, tensors.items())
  tiny_llama.assert_equal(load_llama(tmp_path), model)


@pytest.mark.parametrize('text', ['', '[]', '{', '[' * 100_000, '\x00'])
def test_a_config_that_is_no_json_object_is_refused(text, folder):
  (folder / 'config.json').write_text(text)
  with pytest.raises(ValueError, match='config.json'):
    load_llama(folder)
