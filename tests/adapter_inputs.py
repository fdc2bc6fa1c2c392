# SPDX-License-Identifier: Apache-2.0
"""Inputs for tests of adapters: clips of noise that differ in length."""

import jax.numpy as jnp
import numpy as np

FRAME_SIZE, LLM_SIZE, LLM_VOCABULARY = 5, 6, 11


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def make_inputs(lengths):
  """Return frames, their mask, and the LLM's embedding table."""
  shape = len(lengths), max(lengths)
  frame_mask = np.arange(shape[1]) < np.asarray(lengths)[:, None]
  x = normal(*shape, FRAME_SIZE, seed=1)
  table = normal(LLM_VOCABULARY, LLM_SIZE, seed=2)
  return jnp.asarray(x), jnp.asarray(frame_mask), jnp.asarray(table)
