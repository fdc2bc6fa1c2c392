# SPDX-License-Identifier: Apache-2.0
"""A tiny Llama, in JAX and in Transformers; its sizes all differ."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from flax import nnx

from acl_jax.models import llama
from acl_jax.weights.llama_config import describe_llama

CONFIG = llama.LlamaConfig(
  vocab_size=50,
  hidden_size=24,
  intermediate_size=40,
  num_hidden_layers=3,
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=6,
  rope_theta=500.0,
  rms_norm_eps=1e-5,
  tie_word_embeddings=False,
  max_position_embeddings=64,
)
VARIANTS = {
  'gqa': CONFIG,
  'mha': dataclasses.replace(CONFIG, num_key_value_heads=4),
  'tied': dataclasses.replace(CONFIG, tie_word_embeddings=True),
  'wide': dataclasses.replace(CONFIG, head_dim=8),
}


def build(config=CONFIG):
  """Build the JAX model with random norms and weights large enough to matter."""
  shapes = jax.eval_shape(lambda: llama.Llama(config, rngs=nnx.Rngs(0)))
  random = np.random.default_rng(1)
  fill = lambda x: jnp.asarray(random.normal(0.1, 0.3, x.shape), x.dtype)  # noqa: E731
  return jax.tree.map(fill, shapes)


def build_reference(config=CONFIG):
  """Build the model of Transformers, likewise."""
  reference_config = transformers.LlamaConfig(**describe_llama(config, 'float32'))
  model = transformers.LlamaForCausalLM(reference_config).eval()
  generator = torch.Generator().manual_seed(0)
  for parameter in model.parameters():
    parameter.data.normal_(0.1, 0.3, generator=generator)
  return model


def tokens(batch=2, time=7):
  return np.random.default_rng(2).integers(0, CONFIG.vocab_size, (batch, time))


def causal(batch, time):
  return jnp.tile(jnp.tril(jnp.ones((1, time, time), bool)), (batch, 1, 1))


@jax.jit
def logits(model, tokens):
  positions = jnp.tile(jnp.arange(tokens.shape[1])[None], (len(tokens), 1))
  x, _ = model(model.embed(tokens), positions, causal(*tokens.shape))
  return model.logits(x)


def reference_logits(model, tokens):
  with torch.no_grad():
    return model(torch.tensor(tokens)).logits.numpy()


def assert_equal(a, b):
  """Assert equal configs and bit-identical parameters."""
  assert a.config == b.config
  jax.tree.map(np.testing.assert_array_equal, nnx.state(a), nnx.state(b))
