# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acl_jax.generation.sampling import Sampling
from acl_jax.generation.session import CHUNK, Session
from tests import tiny_llama

LENGTH, NEW = 60, 7


@pytest.fixture(scope='module')
def llama():
  return tiny_llama.build()


def embed(llama, tokens):
  return np.asarray(llama.embed(jnp.asarray(list(tokens))))


def greedy(llama, tokens, count):
  """Decoding by a full forward pass for every token."""
  tokens = list(tokens)
  for _ in range(count):
    padded = np.zeros((1, LENGTH), np.int32)
    padded[0, : len(tokens)] = tokens
    logits = tiny_llama.logits(llama, padded)
    tokens.append(int(logits[0, len(tokens) - 1].argmax()))
  return tokens[-count:]


def decode(session, llama, tokens, num_cached=0, **options):
  prompt = embed(llama, tokens)
  return list(session.stream(prompt, num_cached, NEW, **options))


@pytest.mark.parametrize('length', [1, 2, 23, LENGTH - NEW])
def test_cached_decoding_is_the_full_forward_pass(llama, length):
  tokens = np.random.default_rng(length).integers(0, 50, length).tolist()
  session = Session(llama, LENGTH, stop_ids=())
  assert decode(session, llama, tokens) == greedy(llama, tokens, NEW)


def test_a_later_turn_reads_only_what_is_new_and_says_the_same(llama, monkeypatch):
  monkeypatch.setattr('acl_jax.generation.session.CHUNK', 5)
  first, second = list(range(3, 14)), [40, 41, 2, 7]
  session = Session(llama, LENGTH, stop_ids=())
  reply = decode(session, llama, first)
  cached = [*first, *reply[:-1]]
  turns = [*cached, reply[-1], *second]
  expected = greedy(llama, turns, NEW)
  prompt = np.array(embed(llama, turns))
  prompt[: len(cached)] = np.nan  # it is not read
  assert list(session.stream(prompt, len(cached), NEW)) == expected
  fresh = Session(llama, LENGTH, stop_ids=())
  assert decode(fresh, llama, turns) == expected


def test_a_cache_of_another_prompt_is_overwritten(llama):
  session = Session(llama, LENGTH, stop_ids=())
  decode(session, llama, list(range(30)))
  tokens = [9, 8, 7, 1]
  assert decode(session, llama, tokens) == greedy(llama, tokens, NEW)


def test_later_turns_compile_nothing(llama):
  session = Session(llama, LENGTH, stop_ids=())
  decode(session, llama, list(range(9)))
  prompts = [embed(llama, range(40)), embed(llama, range(LENGTH - NEW))]
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **_: compiled.append(name)
  )
  try:
    for prompt in prompts:
      list(session.stream(prompt, 4, NEW, seed=3))
  finally:
    jax.monitoring.clear_event_listeners()
  assert not [name for name in compiled if 'backend_compile' in name]


def test_a_stop_token_ends_the_response(llama):
  tokens = list(range(3, 12))
  expected = greedy(llama, tokens, NEW)
  stop = expected[2]
  session = Session(llama, LENGTH, stop_ids=(stop,))
  assert decode(session, llama, tokens) == expected[: expected.index(stop) + 1]


def test_the_seed_decides_what_is_drawn(llama):
  session = Session(llama, LENGTH, stop_ids=())
  options = dict(sampling=Sampling(temperature=5.0))
  drawn = [decode(session, llama, [4, 5], seed=seed, **options) for seed in (1, 2, 1)]
  assert drawn[0] == drawn[2] != drawn[1]


def test_a_prompt_without_space_for_the_response_is_refused(llama):
  session = Session(llama, LENGTH, stop_ids=())
  with pytest.raises(ValueError, match=f'{LENGTH - NEW + 1} .*{LENGTH - NEW}.*{NEW}'):
    decode(session, llama, [1] * (LENGTH - NEW + 1))
  assert CHUNK > 0
