# SPDX-License-Identifier: Apache-2.0
"""The `config.json` of every family: defaults, harmless keys, contradictions."""

import dataclasses
import json
from pathlib import Path

import pytest
import transformers

from acl_jax.models.rope import RopeScaling
from acl_jax.weights.harmless import PRETRAINED_DEFAULTS, is_harmless
from acl_jax.weights.llama_config import FAMILIES, describe_llama, parse_llama_config
from tests.models import families
from tests.models.families import LLAMA3_ROPE

PATH = Path('folder/config.json')
NEEDED = {
  'vocab_size': 50,
  'hidden_size': 192,
  'intermediate_size': 40,
  'num_hidden_layers': 30,
  'num_attention_heads': 32,
}


def parse(model_type='llama', **changes):
  return parse_llama_config(NEEDED | {'model_type': model_type} | changes, PATH)


@pytest.mark.parametrize(
  'changes',
  [{}, {'use_sliding_window': True}, {'num_key_value_heads': None}],
  ids=['default', 'window', 'null'],
)
@pytest.mark.parametrize('model_type', FAMILIES)
def test_defaults_are_those_of_transformers(model_type, changes):
  if model_type in ('llama', 'mistral') and 'use_sliding_window' in changes:
    pytest.skip('it has no such key')
  if model_type == 'mistral' and changes:
    changes = {'sliding_window': None}
  config = transformers.AutoConfig.for_model(model_type, **NEEDED, **changes)
  full = json.loads(config.to_json_string(use_diff=False))
  assert parse(model_type, **changes) == parse_llama_config(full, PATH)


@pytest.mark.parametrize('family', families.FAMILIES)
def test_what_is_written_is_read(family):
  config = families.FAMILIES[family].config
  ours = parse_llama_config(json.loads(config.to_json_string()), PATH)
  described = json.loads(json.dumps(describe_llama(ours, 'float32')))
  assert parse_llama_config(described, PATH) == ours
  described.pop('rope_parameters')  # as Transformers 4 writes it
  described['rope_theta'] = ours.rope_theta
  assert parse_llama_config(described, PATH) == ours


def test_defaults_of_pretrained_config_are_harmless_and_other_values_are_not():
  defaults = transformers.PretrainedConfig().to_dict() | PRETRAINED_DEFAULTS
  defaults.pop('model_type')
  for key, value in defaults.items():
    assert is_harmless(key, value), key
  parse(**PRETRAINED_DEFAULTS)
  for key, value in {'is_decoder': True, 'num_beams': 1.0, 'add_bias': False}.items():
    with pytest.raises(ValueError, match=key):
      parse(**{key: value})


@pytest.mark.parametrize(
  'noted',
  [
    {'_attn_implementation_autoset': True, '_commit_hash': 'a'},
    {'unsloth_version': '2024.9', 'unsloth_fixed': True},
    {'neftune_noise_alpha': 5, 'max_sequence_length': 2048},
    {'tokenizer_class': 'LlamaTokenizer', 'decoder_start_token_id': 3},
    {'layer_types': ['full_attention'] * 30},
    {'hidden_dropout': 0.1, 'id2label': {'0': 'a'}, 'quantization_config': None},
    {'final_logit_softcapping': None, 'num_experts': 0},
  ],
  ids=lambda noted: next(iter(noted)),
)
def test_what_libraries_note_is_harmless(noted):
  assert parse(**noted) == parse()


def test_scaling_is_read_from_the_keys_of_both_versions():
  scaling = {k: v for k, v in LLAMA3_ROPE.items() if k != 'rope_theta'}
  old = {'type' if k == 'rope_type' else k: v for k, v in scaling.items()}
  expected = RopeScaling('llama3', 8.0, 1.0, 4.0, 16)
  for changes in (
    {'rope_scaling': scaling, 'rope_theta': 500},
    {'rope_scaling': old, 'rope_theta': 500.0},
    {'rope_parameters': LLAMA3_ROPE},
    {'rope_parameters': LLAMA3_ROPE, 'rope_scaling': old, 'rope_theta': 500.0},
  ):
    config = parse(**changes)
    assert config.rope_scaling == expected and config.rope_theta == 500.0


def scaled(kind, **fields):
  return {'rope_scaling': {'rope_type': kind, **fields}}


LLAMA3 = {'factor': 8.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0}
LONG = {'short_factor': [1.0] * 3, 'long_factor': [2.0] * 3}


@pytest.mark.parametrize(
  'changes, message',
  [
    (scaled('ntk', factor=2.0), "rope_type is 'ntk'"),
    (scaled(['linear'], factor=2.0), 'rope_type'),
    (scaled('linear'), 'factor is missing'),
    (scaled('linear', factor=0.5), 'factor = 0.5'),
    (scaled('linear', factor='2'), "factor = '2'"),
    (scaled('linear', factor=True), 'factor = True'),
    (scaled('linear', factor=float('inf')), 'factor = inf'),
    (scaled('linear', factor=2.0, type='dynamic'), 'rope_type and type'),
    (scaled('linear', factor=2.0, beta_fast=3.0), 'beta_fast has no meaning'),
    (scaled('linear', factor=2.0, mrope_section=[1]), 'unknown mrope_section'),
    (scaled('linear', factor=2.0, partial_rotary_factor=0.5), 'partial_rotary'),
    (scaled('default', factor=2.0), 'factor has no meaning'),
    (scaled('llama3', **LLAMA3 | {'low_freq_factor': 4.0}), 'low_freq_factor = 4.0'),
    (scaled('yarn', factor=2.0, beta_fast=0.5), 'beta_slow = 1.0 .* beta_fast = 0.5'),
    (scaled('longrope', **LONG | {'long_factor': [1.0]}), 'long_factor has 1 values'),
    (scaled('longrope', **LONG | {'short_factor': 'abc'}), 'short_factor'),
    (
      scaled('yarn', factor=2.0, original_max_position_embeddings=16)
      | {'original_max_position_embeddings': 32},
      'original_max_position_embeddings',
    ),
    (
      scaled('linear', factor=2.0)
      | {'rope_parameters': {'rope_type': 'linear', 'factor': 4.0}},
      'rope_scaling and rope_parameters disagree',
    ),
    ({'rope_scaling': 8.0}, 'rope_scaling = 8.0'),
    ({'rope_parameters': {'full_attention': {}}}, 'unknown full_attention'),
    ({'quantization_config': {'quant_method': 'fp8'}}, "quantization_config.*'fp8'"),
    ({'quantization_config': {'quant_method': 'gptq'}}, "quantised weights .'gptq'"),
    ({'quantization_config': {'quant_method': 'awq'}}, "quantised weights .'awq'"),
    ({'num_local_experts': 8}, 'num_local_experts = 8: a mixture of experts'),
    ({'vision_config': {'depth': 3}}, 'vision_config .* a vision model'),
    ({'final_logit_softcapping': 30.0}, 'final_logit_softcapping .* soft-capped'),
    ({'attn_logit_softcapping': 50.0}, 'attn_logit_softcapping .* soft-capped'),
    ({'model_type': 'qwen3_moe'}, "model_type is 'qwen3_moe'"),
    ({'model_type': ['llama']}, 'model_type'),
    ({'layer_types': ['sliding_attention'] * 30}, 'layer_types and sliding_window'),
    ({'layer_types': ['full_attention']}, 'layer_types is not a list of 30'),
    ({'layer_types': ['linear_attention'] * 30}, "layer_types has 'linear_attention'"),
    ({'num_hidden_layers': 10**12}, 'num_hidden_layers = 1000000000000'),
    ({'model_type': 'smollm3', 'no_rope_layers': [1, 0]}, 'no_rope_layers'),
    ({'model_type': 'smollm3', 'no_rope_layers': [2] * 30}, 'no_rope_layers'),
    ({'model_type': 'smollm3', 'no_rope_layer_interval': 0}, 'no_rope_layer_interval'),
    ({'model_type': 'mistral', 'sliding_window': 0}, 'sliding_window = 0'),
    ({'model_type': 'mistral', 'sliding_window': '5'}, 'sliding_window'),
    ({'model_type': 'qwen2', 'max_window_layers': 'a'}, 'max_window_layers'),
    ({'model_type': 'qwen3', 'attention_bias': True}, 'attention_bias = True'),
  ],
  ids=str,
)
def test_what_is_not_supported_is_refused_by_name(changes, message):
  with pytest.raises(ValueError, match=message) as error:
    parse(**changes)
  assert str(PATH) in str(error.value)


def test_an_option_that_the_family_lacks_is_not_written():
  config = dataclasses.replace(parse(), qk_norm=True)
  with pytest.raises(ValueError, match='qk_norm = True .* LlamaForCausalLM'):
    describe_llama(config, 'float32')
