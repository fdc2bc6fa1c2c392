# SPDX-License-Identifier: Apache-2.0
import dataclasses
import queue
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acl_jax.generation.live import LiveEngine
from acl_jax.generation.live_requests import (
  EmbeddedClip,
  EngineClosed,
  LiveConfig,
  LiveRequest,
  QueueFull,
)
from acl_jax.generation.sampling import Sampling
from acl_jax.models.paged_cache import PAGE
from tests import tiny_llama

CONFIG = dataclasses.replace(tiny_llama.CONFIG, max_position_embeddings=4 * PAGE)
SIZES = LiveConfig(slots=3, context=4 * PAGE, cached_tokens=8 * PAGE, max_queue=5)
NEW = 7


@pytest.fixture(scope='module')
def llama():
  return tiny_llama.build(CONFIG)


def make_engine(llama, stop_ids=(), **sizes):
  return LiveEngine(llama, dataclasses.replace(SIZES, **sizes), stop_ids)


def make_tokens(length, seed=0):
  return np.random.default_rng(seed).integers(0, 50, length).tolist()


def ask(engine, prompt, new=NEW, **options):
  """Return the tokens of a response, driving the engine."""
  return list(engine.stream(LiveRequest(prompt, new, **options)))


def ids(tokens):
  return [token.id for token in tokens]


def greedy(llama, tokens, count=NEW):
  """Decode by a full forward pass for every token."""
  tokens = list(tokens)
  for _ in range(count):
    padded = np.zeros((1, 4 * PAGE), np.int32)
    padded[0, : len(tokens)] = tokens
    logits = tiny_llama.logits(llama, padded)
    tokens.append(int(logits[0, len(tokens) - 1].argmax()))
  return tokens[-count:]


@pytest.mark.parametrize('length', [1, 2, 17, PAGE, PAGE + 1, 3 * PAGE + 5])
def test_cached_decoding_is_the_full_forward_pass(llama, length):
  tokens = make_tokens(length)
  response = ask(make_engine(llama), [tokens])
  assert ids(response) == greedy(llama, tokens)
  assert [token.finish_reason for token in response] == [''] * (NEW - 1) + ['length']


def test_many_at_once_answer_as_each_alone(llama):
  engine = make_engine(llama, slots=2)
  prompts = [make_tokens(length, length) for length in (3, 90, 40, 1, 75)]
  received = [[] for _ in prompts]
  for prompt, tokens in zip(prompts, received, strict=True):
    engine.submit(LiveRequest([prompt], NEW), tokens.append)
  while not all(tokens and tokens[-1].finish_reason for tokens in received):
    engine.step()
  assert list(map(ids, received)) == [greedy(llama, prompt) for prompt in prompts]
  assert engine.statistics.running == engine.statistics.queued == 0


def test_a_long_prompt_does_not_hold_up_those_who_are_answered(llama):
  engine, tokens, late = make_engine(llama), [], []
  engine.submit(LiveRequest([make_tokens(4)], 9), tokens.append)
  engine.step()
  engine.submit(LiveRequest([make_tokens(3 * PAGE, 1)], NEW), late.append)
  count = len(tokens)
  engine.step()
  assert len(tokens) == count + 1 and not late


def test_a_second_turn_computes_only_what_is_new(llama):
  engine = make_engine(llama)
  first = make_tokens(PAGE + 11)
  reply = ids(ask(engine, [first]))
  computed = engine.statistics.prefilled_tokens
  second = [*first, *reply, *make_tokens(9, 2)]
  assert ids(ask(engine, [second])) == greedy(llama, second)
  # The last token of the reply was never an input, and nine are new.
  assert engine.statistics.prefilled_tokens - computed == 1 + 9


def test_prompts_share_a_prefix_to_the_position(llama):
  engine = make_engine(llama)
  prefix = make_tokens(23)
  for seed in (1, 2, 3):
    prompt = [*prefix, *make_tokens(5, seed)]
    computed = engine.statistics.prefilled_tokens
    assert ids(ask(engine, [prompt])) == greedy(llama, prompt)
    expected = len(prompt) if seed == 1 else 5
    assert engine.statistics.prefilled_tokens - computed == expected


def test_a_clip_is_read_as_its_embeddings_and_known_by_its_content(llama):
  engine = make_engine(llama)
  tokens, spoken = make_tokens(5), make_tokens(21, 1)
  clip = EmbeddedClip('a', np.asarray(llama.embed(jnp.asarray(spoken))))
  prompt = [tokens, clip, [3, 4]]
  expected = greedy(llama, [*tokens, *spoken, 3, 4])
  assert ids(ask(engine, prompt)) == expected
  computed = engine.statistics.prefilled_tokens
  unread = EmbeddedClip('a', np.zeros_like(clip.embeddings))
  assert ids(ask(engine, [tokens, unread, [3, 4]])) == expected
  assert engine.statistics.prefilled_tokens - computed == 1
  other = dataclasses.replace(unread, content='b')
  assert ids(ask(engine, [tokens, other, [3, 4]])) != expected


def test_a_full_cache_forgets_the_oldest_and_answers_the_same(llama):
  engine = make_engine(llama, cached_tokens=4 * PAGE)
  for seed in range(7):
    prompt = make_tokens(2 * PAGE + 3 * seed, seed)
    assert ids(ask(engine, [prompt])) == greedy(llama, prompt)
  computed = engine.statistics.prefilled_tokens
  ask(engine, [make_tokens(2 * PAGE + 18, 6)])
  assert engine.statistics.prefilled_tokens - computed == 1
  ask(engine, [make_tokens(2 * PAGE, 0)])
  assert engine.statistics.prefilled_tokens - computed == 1 + 2 * PAGE


def test_what_is_drawn_depends_on_the_seed_alone(llama):
  engine = make_engine(llama)
  hot = dict(sampling=Sampling(temperature=2.0, top_p=0.9))
  first, again, other = (
    ids(ask(engine, [make_tokens(5)], 20, seed=seed, **hot)) for seed in (1, 1, 2)
  )
  assert first == again != other
  assert first != greedy(llama, make_tokens(5), 20)
  nearly_greedy = dict(sampling=Sampling(temperature=2.0, top_p=1e-6))
  drawn = ids(ask(engine, [make_tokens(5)], seed=3, **nearly_greedy))
  assert drawn == greedy(llama, make_tokens(5))


def test_log_probabilities_are_those_of_the_model(llama):
  tokens = make_tokens(6)
  response = ask(make_engine(llama), [tokens], num_top_tokens=3)
  padded = np.array([[*tokens, *ids(response)]], np.int32)
  log_probs = jax.nn.log_softmax(tiny_llama.logits(llama, padded)[0])
  for position, token in enumerate(response, start=len(tokens) - 1):
    expected = np.sort(log_probs[position])[::-1][:3]
    np.testing.assert_allclose([p for _, p in token.top], expected, atol=1e-4)
    assert abs(token.log_prob - expected[0]) < 1e-4 and token.top[0][0] == token.id


def test_a_stop_token_ends_a_response(llama):
  tokens = make_tokens(6)
  expected = greedy(llama, tokens)
  response = ask(make_engine(llama, stop_ids=expected[3:4]), [tokens])
  assert ids(response) == expected[: expected.index(expected[3]) + 1]
  assert response[-1].finish_reason == 'stop'


def test_a_cancelled_request_frees_its_slot_within_a_step(llama):
  engine, tokens, next_tokens = make_engine(llama, slots=1), [], []
  ticket = engine.submit(LiveRequest([make_tokens(4)], 30), tokens.append)
  engine.submit(LiveRequest([make_tokens(5)], 30), next_tokens.append)
  engine.step()
  assert tokens and not next_tokens
  ticket.cancel()
  engine.step()
  assert tokens[-1].finish_reason == 'cancelled' and next_tokens
  stream = engine.stream(LiveRequest([make_tokens(3)], 30))
  next_tokens.clear()
  engine._batch.running[0].ticket.cancel()
  next(stream)
  stream.close()
  engine.step()
  assert engine.statistics.running == 0 and engine.statistics.cancelled == 3


def test_a_full_queue_says_when_to_come_back(llama):
  engine = make_engine(llama)
  for _ in range(5):
    engine.submit(LiveRequest([[1]], 1), lambda token: None)
  with pytest.raises(QueueFull, match=r'5 requests are waiting.* 6 s') as error:
    engine.submit(LiveRequest([[1]], 1), lambda token: None)
  assert error.value.retry_after == 6


def test_a_thread_answers_many_and_closes_in_grace(llama):
  engine = make_engine(llama)
  engine.start()
  results = queue.SimpleQueue()

  def client(number):
    prompt = make_tokens(5 + number, number)
    results.put((prompt, ids(ask(engine, [prompt]))))

  threads = [threading.Thread(target=client, args=(n,)) for n in range(5)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  for _ in threads:
    prompt, response = results.get()
    assert response == greedy(llama, prompt)
  last = []
  engine.submit(LiveRequest([make_tokens(3)], NEW), last.append)
  engine.close(grace_seconds=60.0)
  assert ids(last) == greedy(llama, make_tokens(3))
  with pytest.raises(EngineClosed, match='no more requests'):
    engine.submit(LiveRequest([[1]], 1), last.append)


def test_a_failure_ends_the_responses_and_not_the_engine(llama, monkeypatch):
  engine, tokens = make_engine(llama), []
  with monkeypatch.context() as patch:
    patch.setattr(engine._batch, '_call', lambda inputs: 1 / 0)
    engine.submit(LiveRequest([make_tokens(4)], NEW), tokens.append)
    engine.start()
    while not tokens:
      pass
  assert [token.finish_reason for token in tokens] == ['error']
  assert ids(ask(engine, [make_tokens(4)])) == greedy(llama, make_tokens(4))
  engine.close()


def test_nothing_compiles_after_the_warm_up(llama):
  engine, compiled = make_engine(llama), []
  engine.warm_up(lambda text: None)

  def listen(event, seconds, **labels):
    if event == '/jax/core/compile/backend_compile_duration':
      compiled.append(labels)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    received = [[] for _ in range(5)]
    for number, tokens in enumerate(received):
      prompt = [make_tokens(9), EmbeddedClip('a', np.ones((30, 24), np.float32))]
      sampling = Sampling(temperature=number / 2, top_p=1 - number / 10)
      options = dict(sampling=sampling, seed=number, num_top_tokens=2 * number)
      request = LiveRequest([*prompt, make_tokens(20 * number, 2)], NEW, **options)
      engine.submit(request, tokens.append)
    while not all(tokens and tokens[-1].finish_reason for tokens in received):
      engine.step()
    assert not compiled
    jax.jit(lambda x: x + len(compiled))(np.ones(3))
    assert compiled  # the listener hears
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize(
  ('request_', 'words'),
  [
    (LiveRequest([[1] * 4 * PAGE], 1), '256 tokens; the limit is 255'),
    (LiveRequest([[]], 1), '0 prompt'),
    (LiveRequest([[1]], 0), '0 new'),
    (LiveRequest([[1, 50]], 1), 'from 1 to 50.*below 50'),
    (LiveRequest([[-1]], 1), 'from -1 to -1'),
    (LiveRequest([[1]], 1, Sampling(top_k=2)), 'top_k is 2'),
    (LiveRequest([[1]], 1, num_top_tokens=21), 'num_top_tokens is 21.*20'),
    (LiveRequest([EmbeddedClip('a', np.ones((2, 7)))], 1), r'\(2, 7\).*24'),
    (LiveRequest([EmbeddedClip('a', np.full((2, 24), np.nan))], 1), 'finite'),
  ],
)
def test_bad_requests_are_refused(llama, request_, words):
  with pytest.raises(ValueError, match=words):
    make_engine(llama).submit(request_, lambda token: None)


def test_sizes_that_do_not_fit_are_refused(llama):
  with pytest.raises(ValueError, match=r'cached_tokens is 10; .* 2048'):
    LiveConfig(cached_tokens=10)
  with pytest.raises(ValueError, match='slots is 0'):
    LiveConfig(slots=0)
  with pytest.raises(ValueError, match='context is 512; the LLM has 256'):
    make_engine(llama, context=512, cached_tokens=512)
