# SPDX-License-Identifier: Apache-2.0
"""Models of every architecture, from GGUF and from Transformers."""

import gguf
import numpy as np
import pytest
import torch
import transformers

from acl_jax.models.rope import RopeScaling
from acl_jax.weights import gguf as gguf_models
from acl_jax.weights import gguf_file
from acl_jax.weights.gguf import WINDOW
from acl_jax.weights.llama import load_llama, open_llama
from tests import tiny_llama
from tests.models import families
from tests.weights.gguf_families import ARCHITECTURES, build, check_gguf, write
from tests.weights.gguf_writer import write_gguf

CASES = [*ARCHITECTURES.items(), ('mistral', 'mistral3')]


# The others are checked for the table of families.
@pytest.mark.parametrize('name', ['llama3.1', 'qwen2', 'mistral-window'])
def test_a_model_equals_its_folder(name, tmp_path):
  check_gguf(name, tmp_path)


def test_mistral_of_its_own_architecture_equals_its_folder(tmp_path):
  check_gguf('mistral', tmp_path, 'mistral3')


@pytest.mark.full
@pytest.mark.parametrize('name, architecture', CASES)
def test_logits_equal_transformers(name, architecture, tmp_path):
  model, tokens = build(name), families.tokens(name)
  expected = tiny_llama.reference_logits(model, tokens)
  loaded = load_llama(write(name, tmp_path / 'x.gguf', architecture))
  actual = tiny_llama.logits(loaded, tokens)
  np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.full
@pytest.mark.parametrize('name', ['llama2', 'smollm2'])  # all that it reads rightly
def test_logits_equal_those_of_transformers_reading_the_file(name, tmp_path):
  path = write_gguf(tmp_path / 'x.gguf', build(name), 'llama', vocab_size=50)
  reference = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path, gguf_file='x.gguf', dtype=torch.float32
  )
  tokens = families.tokens(name)
  expected = tiny_llama.reference_logits(reference, tokens)
  actual = tiny_llama.logits(load_llama(path), tokens)
  np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=1e-4)


def test_a_head_beside_the_embedding_is_kept(tmp_path):
  model = families.build('llama3')
  path = write_gguf(tmp_path / 'x.gguf', model, 'llama')
  loaded = load_llama(path)
  assert not loaded.config.tie_word_embeddings
  head = model.lm_head.weight.detach().numpy().T
  np.testing.assert_array_equal(loaded.lm_head[...], head)


def test_embedding_rows_beyond_the_tokens_are_kept(tmp_path):
  path = write_gguf(tmp_path / 'x.gguf', families.build('llama3'), 'llama')
  assert len(gguf_file.read(path)[0]['tokenizer.ggml.tokens']) == 2
  assert open_llama(path).config.vocab_size == 50


@pytest.mark.parametrize(
  'changed, expected',
  [
    ({}, None),
    ({'rope.scaling.type': 'none', 'rope.scaling.factor': 4.0}, None),
    ({'rope.scaling.factor': 4.0}, RopeScaling('linear', factor=4.0)),
    ({'rope.scale_linear': 4.0}, RopeScaling('linear', factor=4.0)),
    ({'rope.scale_linear': 1.0}, None),
    (
      {
        'rope.scaling.type': 'yarn',
        'rope.scaling.factor': 4.0,
        'rope.scaling.original_context_length': 16,
        'rope.scaling.yarn_beta_fast': 30.0,
        'rope.scaling.yarn_beta_slow': 2.0,
        'rope.scaling.yarn_log_multiplier': 0.5,
        'rope.scaling.finetuned': True,
      },
      RopeScaling(
        'yarn',
        factor=4.0,
        original_max_position_embeddings=16,
        beta_fast=30.0,
        beta_slow=2.0,
        mscale=1.0,
        mscale_all_dim=0.5,
      ),
    ),
  ],
  ids=str,
)
def test_scaling_keys(changed, expected, opened):
  assert opened(changed).rope_scaling == expected


@pytest.fixture
def opened(tmp_path, monkeypatch):
  """A function that opens a Llama whose metadata is changed; returns the config."""
  path = write_gguf(tmp_path / 'x.gguf', families.build('llama3'), 'llama')
  metadata, tensors = gguf_file.read(path)

  def open_changed(changed, factors=None):
    entries = {f'llama.{key}': value for key, value in changed.items()}
    extra = {} if factors is None else {'rope_freqs.weight': _tensor(factors)}
    values = metadata | entries, tensors | extra
    monkeypatch.setattr(gguf_models, 'read', lambda path: values)
    return open_llama(path).config

  return open_changed


def _tensor(values):
  return gguf_file.Tensor.from_array(np.array(values, np.float32))


def test_factors_of_no_known_rule_are_listed(opened):
  scaling = opened({}, [1.0, 3.5, 2.0]).rope_scaling
  assert scaling == RopeScaling(
    'longrope',
    short_factor=(1.0, 3.5, 2.0),
    long_factor=(1.0, 3.5, 2.0),
    attention_factor=1.0,
  )


@pytest.mark.parametrize(
  'factors, message',
  [
    ([1.0, 2.0], r'rope_freqs.weight has shape \(2,\), not \(3,\)'),
    ([1.0, 0.0, 2.0], 'rope_freqs.weight has values that are not positive'),
    ([1.0, np.inf, 2.0], 'rope_freqs.weight has values that are not positive'),
  ],
  ids=str,
)
def test_wrong_factors_are_refused(factors, message, opened):
  with pytest.raises(ValueError, match=f'x.gguf: tensor {message}'):
    opened({}, factors)


@pytest.mark.parametrize(
  'changed, message',
  [
    ({'expert_count': 4}, 'expert_count = 4'),
    ({'expert_feed_forward_length': 7}, 'expert_feed_forward_length = 7'),
    ({'attention.temperature_scale': 0.1}, 'attention.temperature_scale = 0.1'),
    ({'final_logit_softcapping': 30.0}, 'final_logit_softcapping = 30.0'),
    ({'attention.sliding_window': 'a'}, "attention.sliding_window = 'a'"),
    ({'attention.sliding_window': [7]}, r'attention.sliding_window = \[7\]'),
    ({'rope.scaling.type': 'longrope'}, "rope.scaling.type is 'longrope'"),
    ({'rope.scaling.type': 'yarn'}, 'rope.scaling.type = yarn has no factor'),
    ({'rope.scaling.factor': 'x'}, "factor = 'x'"),
    ({'rope.scaling.factor': 0.5}, 'factor = 0.5'),
    ({'rope.scaling.yarn_ext_factor': 0.3}, 'yarn_ext_factor = 0.3'),
    ({'rope.dimension_count': 4}, 'rope_dimension_count = 4; head_dim is 6'),
    ({'attention.value_length': 4}, 'value_length = 4; head_dim is 6'),
    ({'attention.head_count_kv': 3}, 'num_key_value_heads = 3'),
    ({'attention.head_count_kv': [2, 2, 1]}, r'num_key_value_heads = \[2, 2, 1\]'),
    ({'attention.head_count': 0}, 'num_attention_heads = 0'),
    ({'block_count': 2}, 'unexpected tensor blk.2'),
    ({'block_count': 2**31}, '2147483648 layers'),
    ({'feed_forward_length': 41}, r'ffn_gate.weight has shape \(40, 24\)'),
    ({'vocab_size': 49}, r'token_embd.weight has shape \(50, 24\)'),
  ],
  ids=str,
)
def test_an_unsupported_model_is_refused_by_its_field(
  changed, message, opened, tmp_path
):
  with pytest.raises(ValueError, match=f'x.gguf: .*{message}'):
    opened(changed)
    load_llama(tmp_path / 'x.gguf')


def test_scaling_beside_factors_is_refused(opened):
  with pytest.raises(ValueError, match='rope.scaling.type = linear stands beside'):
    opened({'rope.scaling.factor': 2.0}, [1.0, 2.0, 2.0])


@pytest.mark.parametrize('name', ['clip', 'qwen3moe', 'llama4', 'gemma3', 'mamba'])
def test_another_architecture_is_refused(name, tmp_path):
  writer = gguf.GGUFWriter(tmp_path / 'x.gguf', name)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.close()
  message = f"x.gguf: general.architecture is '{name}'; .* llama, mistral3, qwen2"
  with pytest.raises(ValueError, match=message):
    load_llama(tmp_path / 'x.gguf')


def test_a_window_of_qwen2_is_refused(tmp_path):
  model = families.build('qwen2')
  path = write_gguf(tmp_path / 'x.gguf', model, 'qwen2', **{WINDOW: 5})
  with pytest.raises(ValueError, match='attention.sliding_window = 5'):
    load_llama(path)
