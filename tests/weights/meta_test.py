# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest
import torch

from acl_jax.weights import meta, table
from acl_jax.weights.configuration import sizes
from acl_jax.weights.llama import load_llama
from tests import tiny_llama
from tests.tiny_llama import CONFIG, VARIANTS

# Meta's code cuts these along the second axis, matrices and vectors otherwise
# along the first and not at all.
SECOND = ('tok_embeddings', 'attention.wo', 'feed_forward.w2')
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
  model = model or tiny_llama.build()
  parts = [{'rope.freqs': torch.ones(3)} for _ in range(shards)]
  for name, tensor in table.export(model, meta.LLAMA, sizes(model.config)):
    whole = torch.tensor(tensor.read())
    axis = 1 if any(part in name for part in SECOND) else 0
    cut = whole.tensor_split(shards, axis) if whole.ndim == 2 else [whole] * shards
    for shard, part in zip(parts, cut, strict=True):
      shard[name] = part.clone()
  for number, shard in enumerate(parts):
    torch.save(shard, folder / f'consolidated.{number:02}.pth')
  (folder / 'params.json').write_text(json.dumps(PARAMS | changes))
  return parts


@pytest.mark.parametrize('shards', [1, 2])
@pytest.mark.parametrize('variant', ['gqa', 'mha'])
def test_the_shards_are_the_model(variant, shards, tmp_path):
  model = tiny_llama.build(VARIANTS[variant])
  write(tmp_path, model, shards, n_kv_heads=model.config.num_key_value_heads)
  tiny_llama.assert_equal(load_llama(tmp_path), model)


def test_the_feed_forward_widths_of_the_published_sizes():
  for width, multiple, factor, want in (
    (4096, 256, 1, 11_008),
    (5120, 256, 1, 13_824),
    (8192, 4096, 1.3, 28_672),
  ):
    assert meta._feed_forward(width, multiple, factor, Path('params.json')) == want


def test_a_missing_shard_is_named(tmp_path):
  write(tmp_path)
  (tmp_path / 'consolidated.00.pth').unlink()
  with pytest.raises(FileNotFoundError, match='consolidated.00.pth'):
    load_llama(tmp_path)
  write(tmp_path)
  (tmp_path / 'consolidated.01.pth').unlink()
  with pytest.raises(ValueError, match='1 shards of shape'):
    load_llama(tmp_path)


def damage(parts, name, tensor):
  if tensor is None:
    del parts[1][name]
  else:
    parts[1][name] = tensor


@pytest.mark.parametrize(
  'name, tensor, message',
  [
    ('norm.weight', torch.zeros(24), 'norm.weight differs'),
    ('norm.weight', torch.zeros(23), 'different shapes'),
    ('norm.weight', None, 'norm.weight is not in every shard'),
    ('extra', torch.zeros(24), 'extra is not in every shard'),
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
    ({'use_scaled_rope': True}, 'use_scaled_rope'),
    ({'n_experts': 8}, 'n_experts'),
    ({'dim': '24'}, "dim = '24'"),
    ({'dim': 32}, 'shards of shape'),
    ({'multiple_of': 0}, 'multiple_of = 0'),
    ({'n_layers': 2}, 'nothing takes layers.2'),
    ({'n_layers': 10**9}, '1000000000 layers'),
    ({'vocab_size': 51}, 'do not make'),
  ],
  ids=str,
)
def test_params_that_do_not_fit_are_refused_by_name(change, message, tmp_path):
  write(tmp_path, **change)
  with pytest.raises(ValueError, match=message):
    load_llama(tmp_path)


def test_defaults_are_those_of_llama_2(tmp_path):
  write(tmp_path)
  params = {k: v for k, v in PARAMS.items() if k not in ('max_seq_len', 'rope_theta')}
  (tmp_path / 'params.json').write_text(json.dumps(params))
  config = load_llama(tmp_path).config
  assert (config.rope_theta, config.max_position_embeddings) == (10_000, 4096)
  assert config.vocab_size == CONFIG.vocab_size
