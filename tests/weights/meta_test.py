# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from acl_jax.models.rope import RopeScaling
from acl_jax.weights import meta, table
from acl_jax.weights.configuration import llama_axis_sizes
from acl_jax.weights.llama import load_llama, open_llama
from tests import tiny_llama
from tests.tiny_llama import CONFIG, VARIANTS

# Meta's code shards these along the second axis, other matrices along the first and
# vectors not at all.
SHARDED_ALONG_SECOND_AXIS = ('tok_embeddings', 'attention.wo', 'feed_forward.w2')
PARAMS = {
  'dim': 24,
  'n_layers': 3,
  'n_heads': 4,
  'n_kv_heads': 2,
  'multiple_of': 8,
  'ffn_dim_multiplier': 0.6,  # 24 -> 64 -> 38 -> 40
  'norm_eps': 1e-5,
  'rope_theta': 500.0,
  'vocab_size': -1,
  'max_seq_len': 64,
}


def write(folder, model=None, shards=2, **changes):
  """Write a model in Meta's format; `changes` are entries of params.json."""
  model = model or tiny_llama.build()
  parts = [{'rope.freqs': torch.ones(3)} for _ in range(shards)]
  for name, tensor in table.export_tensors(
    model, meta.LLAMA, llama_axis_sizes(model.config)
  ):
    array = torch.tensor(tensor.read())
    axis = int(any(part in name for part in SHARDED_ALONG_SECOND_AXIS))
    if array.ndim == 2:
      slices = array.tensor_split(shards, axis)
    else:
      slices = [array] * shards
    for shard, part in zip(parts, slices, strict=True):
      shard[name] = part.clone()
  for number, shard in enumerate(parts):
    torch.save(shard, folder / f'consolidated.{number:02}.pth')
  (folder / 'params.json').write_text(json.dumps(PARAMS | changes))
  return parts


@pytest.mark.parametrize('shards', [1, 2])
@pytest.mark.parametrize('variant', ['gqa', 'mha'])
def test_merged_shards_are_the_model(variant, shards, tmp_path):
  model = tiny_llama.build(VARIANTS[variant])
  write(tmp_path, model, shards, n_kv_heads=model.config.num_key_value_heads)
  tiny_llama.assert_equal(load_llama(tmp_path), model)


def test_feed_forward_sizes_of_published_models():
  for width, multiple, factor, expected in (
    (4096, 256, 1, 11_008),
    (5120, 256, 1, 13_824),
    (8192, 4096, 1.3, 28_672),
  ):
    path = Path('params.json')
    assert meta._feed_forward_size(width, multiple, factor, path) == expected


def test_a_missing_shard_is_named(tmp_path):
  write(tmp_path)
  (tmp_path / 'consolidated.00.pth').unlink()
  with pytest.raises(FileNotFoundError, match='consolidated.00.pth'):
    load_llama(tmp_path)
  write(tmp_path)
  (tmp_path / 'consolidated.01.pth').unlink()
  with pytest.raises(ValueError, match=r'1 shards .*\(50, 12\).*\(25, 24\)'):
    load_llama(tmp_path)


def damage(parts, name, tensor):
  if tensor is None:
    del parts[1][name]
  else:
    parts[1][name] = tensor


@pytest.mark.parametrize(
  'name, tensor, message',
  [
    ('norm.weight', torch.zeros(24), r'norm\.weight differs'),
    ('norm.weight', torch.zeros(23), r'norm\.weight .*\bshapes'),
    ('norm.weight', None, r'consolidated\.01\.pth: norm\.weight'),
    ('extra', torch.zeros(24), r'consolidated\.01\.pth: extra'),
  ],
)
def test_shards_that_disagree_are_refused(name, tensor, message, tmp_path):
  parts = write(tmp_path)
  damage(parts, name, tensor)
  torch.save(parts[1], tmp_path / 'consolidated.01.pth')
  with pytest.raises(ValueError, match=message):
    load_llama(tmp_path)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'use_scaled_rope': 'yes'}, 'use_scaled_rope'),
    ({'n_experts': 8}, 'n_experts'),
    ({'vision_chunk_size': 448}, 'vision_chunk_size'),
    ({'quantization_args': {'group_size': 32}}, 'quantization_args'),
    ({'rope_theta': [500000.0]}, 'rope_theta'),
    ({'dim': '24'}, "dim = '24'"),
    ({'dim': 32}, r'2 shards .*\(50, 12\).*\(50, 32\)'),
    ({'multiple_of': 0}, 'multiple_of = 0'),
    ({'n_layers': 2}, r'layers\.2\.'),
    ({'n_layers': 10**9}, '1000000000 layers'),
    ({'vocab_size': 51}, r'2 shards .*\(50, 12\).*\(51, 24\)'),
  ],
  ids=str,
)
def test_inconsistent_params_are_refused_by_name(change, message, tmp_path):
  write(tmp_path, **change)
  with pytest.raises(ValueError, match=message):
    load_llama(tmp_path)


def test_defaults_are_those_of_llama_2(tmp_path):
  write(tmp_path)
  params = PARAMS.copy()
  del params['max_seq_len'], params['rope_theta']
  (tmp_path / 'params.json').write_text(json.dumps(params))
  config = load_llama(tmp_path).config
  assert (config.rope_theta, config.max_position_embeddings) == (10_000, 4096)
  assert config.vocab_size == CONFIG.vocab_size


def test_llama_3_shards_its_embedding_along_the_vocabulary(tmp_path, monkeypatch):
  monkeypatch.setattr(f'{__name__}.SHARDED_ALONG_SECOND_AXIS', ('wo', 'w2'))
  parts = write(tmp_path)
  assert parts[0]['tok_embeddings.weight'].shape == (25, 24)
  tiny_llama.assert_equal(load_llama(tmp_path), tiny_llama.build())


@pytest.mark.parametrize(
  'changes, positions, factor',
  [
    ({'rope_theta': 10_000}, 4096, None),
    ({'rope_theta': 1_000_000.0}, 16_384, None),
    ({'rope_theta': 500_000}, 8192, None),
    ({'rope_theta': 500_000.0, 'use_scaled_rope': True}, 131_072, 8.0),
  ],
  ids=str,
)
def test_positions_and_scaling_of_each_generation(changes, positions, factor, tmp_path):
  write(tmp_path)
  params = {k: v for k, v in PARAMS.items() if k != 'max_seq_len'} | changes
  (tmp_path / 'params.json').write_text(json.dumps(params))
  config = open_llama(tmp_path).config
  assert config.max_position_embeddings == positions
  if factor is None:
    assert config.rope_scaling is None
  else:
    assert config.rope_scaling == RopeScaling('llama3', factor, 1.0, 4.0, 8192)


@pytest.mark.parametrize('width, layers, factor', [(4096, 32, 8), (2048, 16, 32)])
def test_scaled_frequencies_equal_those_of_meta(width, layers, factor):
  fields = {
    'hidden_size': width,
    'num_hidden_layers': layers,
    'num_attention_heads': 32,
    'intermediate_size': 14_336,
    'rms_norm_eps': 1e-5,
    'rope_theta': 500_000.0,
    'tie_word_embeddings': False,
    'vocab_size': 128_256,
    'max_position_embeddings': 131_072,
  }
  config = meta._scale_rope(fields, Path('params.json'))
  actual = np.asarray(config.rope.frequencies(jnp.zeros((1, 1), int)))[0]
  base = 500_000.0 ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
  turns = 8192 / (2 * np.pi / base)
  smooth = np.clip((turns - 1) / 3, 0, 1)
  expected = (1 - smooth) * base / factor + smooth * base
  np.testing.assert_allclose(actual, expected, rtol=1e-5)
