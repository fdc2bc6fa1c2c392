# SPDX-License-Identifier: Apache-2.0
"""The live engine of a Llama that is sharded over eight devices answers as on one."""

import dataclasses

import jax
import numpy as np
import pytest

from acl_jax.generation.live import LiveEngine
from acl_jax.generation.live_requests import EmbeddedClip, LiveConfig, LiveRequest
from acl_jax.models.paged_cache import PAGE
from acl_jax.sharding.arrays import put_sharded
from acl_jax.sharding.mesh import make_mesh
from acl_jax.sharding.rules import SHARDING_RULES, shardings
from tests import tiny_llama
from tests.sharding.meshes import MESHES

CONFIG = dataclasses.replace(tiny_llama.CONFIG, max_position_embeddings=4 * PAGE)
SIZES = LiveConfig(slots=3, context=4 * PAGE, cached_tokens=8 * PAGE, max_queue=5)


def answer(llama):
  """Return the tokens of three prompts at once, of which one has audio."""
  engine = LiveEngine(llama, SIZES, stop_ids=())
  random = np.random.default_rng(0)
  first, second, third = (random.integers(0, 50, n).tolist() for n in (3, 11, 40))
  audio = random.normal(size=(5, CONFIG.hidden_size)).astype(np.float32)
  prompts = [first], [second, EmbeddedClip('recording', audio), third], [third]
  received = [[] for _ in prompts]
  for prompt, tokens in zip(prompts, received, strict=True):
    engine.submit(LiveRequest(list(prompt), 6), tokens.append)
  while not all(tokens and tokens[-1].finish_reason for tokens in received):
    engine.step()
  return received


@pytest.mark.parametrize('name, rules', [('all', 'fsdp'), ('data', 'replicated')])
def test_sharded_answers_are_those_of_one_device(name, rules):
  llama = tiny_llama.build(CONFIG)
  expected = answer(llama)
  mesh = make_mesh(MESHES[name])
  with jax.set_mesh(mesh):
    placement = shardings(llama, mesh, SHARDING_RULES[rules])
    actual = answer(put_sharded(llama, placement))
  for tokens, others in zip(actual, expected, strict=True):
    assert [token.id for token in tokens] == [token.id for token in others]
    log_probs = [[token.log_prob for token in each] for each in (tokens, others)]
    np.testing.assert_allclose(*log_probs, atol=1e-5)
