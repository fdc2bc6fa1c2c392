# SPDX-License-Identifier: Apache-2.0
"""Every family against Transformers, and all options of the block at once."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from transformers.models.llama import modeling_llama

from acl_jax.models import llama, quantisation
from acl_jax.models.matrices import QuantisedMatrix
from acl_jax.models.paged_cache import PAGE, PagedCache
from acl_jax.models.rope import Rope, RopeScaling
from acl_jax.models.speech_llm import causal_segment_mask
from acl_jax.sharding import arrays
from acl_jax.sharding.mesh import make_mesh
from acl_jax.weights.llama_config import SIZES
from tests import tiny_llama
from tests.models import families_table
from tests.models.families import FAMILIES
from tests.models.families_table import COLUMNS, DOCS, END, START
from tests.sharding.meshes import MESHES

# Together they have every option but scaled rotations, which have a test of their own.
FAST = {
  'equals Transformers': ('smollm3', 'qwen2-window', 'qwen3'),
  'chat template': (),  # tests/text/chat_template_test.py has all of them
  'written back': ('smollm3', 'qwen2-window'),
  'GGUF': ('llama3.2', 'qwen3'),
}


@pytest.mark.parametrize(
  'family, column',
  [
    pytest.param(name, column, marks=[] if name in fast else [pytest.mark.full])
    for column, fast in FAST.items()
    for name in FAMILIES
  ],
)
def test_a_family(family, column, tmp_path):
  if (family, column) not in families_table.WITHOUT:
    COLUMNS[column](family, tmp_path)


def test_the_table_of_the_documentation_is_that_of_the_checks_and_has_no_hole():
  cells = {(name, column): 'yes' for name in FAMILIES for column in COLUMNS}
  cells |= families_table.WITHOUT
  pattern = re.escape(START) + r'\n(.*?)\n?' + re.escape(END)
  table = re.search(pattern, DOCS.read_text(), re.DOTALL)
  assert table and table[1] == families_table.render(cells), (
    'run python -m tests.models.families_table'
  )


# Every option at once, with rotations that change from position 16 on.
CONFIG = llama.LlamaConfig(
  **{name: getattr(tiny_llama.CONFIG, name) for name in SIZES} | {'hidden_size': 32},
  rope_scaling=RopeScaling('yarn', 4.0, original_max_position_embeddings=16),
  attention_bias=True,
  qk_norm=True,
  no_rope_layers=(1,),
  sliding_window=5,
  full_attention_layers=(0,),
)
B, T = 2, 27
POSITIONS = jnp.tile(jnp.arange(T)[None], (B, 1))


@pytest.fixture(scope='module')
def model():
  return tiny_llama.build(CONFIG)


@pytest.fixture(scope='module')
def x():
  return jax.random.normal(jax.random.key(3), (B, T, CONFIG.hidden_size))


@jax.jit
def run(model, x, positions, mask):
  return model(x, positions, mask)[0]


@pytest.fixture(scope='module')
def expected(model, x):
  return run(model, x, POSITIONS, tiny_llama.causal(B, T))


def test_packed_sequences_equal_separate_rows(model, x, expected):
  """The second row's sequences have 10 and 16 tokens, with padding inside."""
  is_first = np.arange(T) < 11
  ids = np.where(is_first, 1, 2) * (np.arange(T) != 4)
  mask = jax.jit(causal_segment_mask)(jnp.asarray([np.ones(T, int), ids]))
  packed = np.asarray(run(model, x, *mask))
  np.testing.assert_allclose(packed[0], expected[0], atol=1e-5)
  parts = [np.asarray(x)[1, ids == segment] for segment in (1, 2)]
  rows = np.zeros(x.shape, np.float32)
  for row, part in zip(rows, parts, strict=True):
    row[: len(part)] = part
  alone = run(model, jnp.asarray(rows), POSITIONS, tiny_llama.causal(B, T))
  for segment, row, part in zip((1, 2), np.asarray(alone), parts, strict=True):
    np.testing.assert_allclose(packed[1, ids == segment], row[: len(part)], atol=1e-5)


def test_a_kv_cache_and_pages_change_nothing(model, x, expected):
  """Chunks of 9 tokens, in a cache that is longer than needed."""
  t = 9

  @jax.jit
  def step(cache, pool, start):
    part = jax.lax.dynamic_slice_in_dim(x, start, t, axis=1)
    positions = start + POSITIONS[:, :t]
    visible = lambda s: jnp.arange(s)[None, None] <= positions[..., None]  # noqa: E731
    index = jnp.full(B, start)
    y, cache = model(part, positions, visible(T + 3), cache, index)
    lengths = jnp.full(B, t)
    paged = PagedCache.at_positions(pool, jnp.array([[2], [0]]), positions, lengths)
    z, paged = model(part, positions, visible(PAGE), paged)
    return y, z, cache, paged.pool

  cache = model.empty_cache(B, T + 3, jnp.float32)
  pool = model.empty_cache(3, PAGE, jnp.float32)
  outputs = []
  for start in range(0, T, t):
    y, z, cache, pool = step(cache, pool, start)
    outputs.append((y, z))
  for each in zip(*outputs, strict=True):
    np.testing.assert_allclose(jnp.concatenate(each, 1), expected, atol=1e-5)


def test_a_shared_prefix_changes_nothing(model, x, expected):
  p, causal = 6, tiny_llama.causal(1, T)
  row = x[:1]
  prefix = model(row[:, :p], POSITIONS[:1, :p], causal[:, :p, :p])[1]
  y, _ = model(row[:, p:], POSITIONS[:1, p:], causal[:, p:], prefix_cache=prefix)
  np.testing.assert_allclose(y[0], expected[0, p:], atol=1e-5)


def test_a_sharded_model_computes_the_same(model, x, expected):
  mesh = make_mesh(MESHES['all'])
  with jax.set_mesh(mesh):
    sharded = arrays.shard(model)
    actual = run(sharded, x, POSITIONS, tiny_llama.causal(B, T))
  np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_int8_quantises_matrices_and_keeps_biases_and_norms(model, x, expected):
  quantised = quantisation.quantise(jax.tree.map(jnp.copy, model))
  attention = quantised.layers.self_attn
  np.testing.assert_array_equal(attention.q_bias, model.layers.self_attn.q_bias)
  assert isinstance(attention.q_proj, QuantisedMatrix)
  values = jax.tree.map(
    lambda param, matrix: param.replace(matrix[...]),
    model,
    quantised,
    is_leaf=lambda x: isinstance(x, nnx.Variable | QuantisedMatrix),
  )
  actual = run(values, x, POSITIONS, tiny_llama.causal(B, T))
  error = jnp.linalg.norm(actual - expected) / jnp.linalg.norm(expected)
  assert 0 < error < 0.03


ROPES = {
  'linear': {'factor': 3.0},
  'dynamic': {'factor': 3.0},
  'llama3': {
    'factor': 8.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 32,
  },
  'yarn': {'factor': 4.0, 'original_max_position_embeddings': 32},
  'yarn-mscale': {
    'factor': 4.0,
    'original_max_position_embeddings': 32,
    'beta_fast': 16.0,
    'beta_slow': 2.0,
    'mscale': 0.7,
    'mscale_all_dim': 1.1,
    'truncate': False,
  },
  'longrope': {
    'short_factor': (1.0, 1.1, 1.2, 1.3, 1.4),
    'long_factor': (1.0, 2.0, 3.0, 4.0, 5.0),
    'original_max_position_embeddings': 32,
  },
}


@pytest.mark.parametrize('length', [30, 400, 100_000])
@pytest.mark.parametrize('name', ROPES)
def test_scaled_rotations_equal_transformers(name, length):
  kind, fields = name.split('-')[0], ROPES[name]
  h, theta, max_positions = 10, 500.0, 64
  lists = {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
  config = transformers.LlamaConfig(
    head_dim=h,
    max_position_embeddings=max_positions,
    rope_parameters={'rope_type': kind, 'rope_theta': theta, **lists},
  )
  reference = modeling_llama.LlamaRotaryEmbedding(config)
  positions = np.linspace(0, length - 1, 7, dtype=int)[None]
  x = np.random.default_rng(0).normal(size=(1, 7, 2, h)).astype(np.float32)
  cos, sin = reference(torch.tensor(x), torch.tensor(positions))
  expected, _ = modeling_llama.apply_rotary_pos_emb(
    torch.tensor(x), torch.tensor(x), cos, sin, unsqueeze_dim=2
  )
  rope = Rope(h, theta, max_positions, RopeScaling(kind, **fields))
  # An angle of 1e5 radians has 24 bits, so an error of 1e-2 in its last one.
  tolerance = max(1e-5, length * 2e-7) if kind == 'dynamic' else 1e-5
  actual = rope(jnp.asarray(x), jnp.asarray(positions))
  np.testing.assert_allclose(actual, expected, atol=tolerance)
