# SPDX-License-Identifier: Apache-2.0
"""Short recordings are heard as before, long ones in windows, streams as wholes."""

import concurrent.futures
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acl_jax.batches.padded import pad_to_step
from acl_jax.hearing.pieces import FRAME_STEP
from acl_jax.hearing.windows import Windows
from data_pipeline.features import get_features
from tests.hearing.conftest import RATE, noise

encode = jax.jit(lambda model, *mels: model.encode_audio(*map(jnp.asarray, mels)))
greedy = jax.jit(lambda model, *mels: model.greedy(*model.encoder(*mels)))


def assert_equal(actual, expected):
  np.testing.assert_array_equal(actual.embeddings, expected.embeddings)
  assert (actual.content, actual.transcript) == (expected.content, expected.transcript)
  assert str(actual.tokens) == str(expected.tokens)  # NaN equals NaN
  assert actual.seconds == expected.seconds


@pytest.mark.parametrize('seconds', [0.3, 1.9, 3.0])
def test_a_short_recording_is_heard_as_one(model, make_hearing, seconds):
  samples = noise(seconds, 5)
  heard = make_hearing(model).hear(samples)
  log_mel = get_features('whisper').log_mel(samples, 80)
  mels = pad_to_step([log_mel], 1, 300, FRAME_STEP)
  embeddings, mask = encode(model, *mels)
  # The compiler fuses the one call otherwise; the shipped model is compared exactly.
  expected = np.asarray(embeddings)[mask]
  np.testing.assert_allclose(heard.embeddings, expected, rtol=0, atol=1e-6)
  ids = greedy(model, *map(jnp.asarray, mels))
  assert [token.id for token in heard.tokens] == (
    [] if ids is None else ids[ids >= 0].tolist()
  )
  assert heard.seconds == seconds and len(heard.embeddings)


@settings(max_examples=6)
@given(sizes=st.lists(st.integers(0, 60_000), max_size=6), seed=st.integers(0, 9))
def test_a_stream_is_heard_as_a_whole(model, make_hearing_once, sizes, seed):
  samples = noise(10.3, seed)
  hearing = make_hearing_once(model)
  listener = hearing.listen()
  for block in np.split(
    samples, np.minimum(np.cumsum(sizes), len(samples)).astype(int)
  ):
    block = block.copy()
    listener.append(block)
    block[:] = 9.0  # the caller reuses its array
  heard = listener.finish()
  assert_equal(heard, hearing.hear(samples))
  assert len(heard.embeddings) > 10


@pytest.fixture(scope='session')
def make_hearing_once(text):
  from acl_jax.hearing.hearing import Hearing

  known = {}

  def make(model):
    if id(model) not in known:
      decode = text.tokenizer.decode if model.adapter.recognises else None
      known[id(model)] = Hearing(model, text.tokenizer, decode, cached_bytes=0)
    return known[id(model)]

  return make


def test_tokens_are_ranked_and_spell_the_transcript(make_model, make_hearing):
  for kind in ('attention', 'ctc'):
    heard = make_hearing(make_model(kind)).hear(noise(2.5, 4))
    assert heard.tokens
    spelt = ''.join(token.text for token in heard.tokens)
    assert heard.transcript == spelt.strip()
    for token in heard.tokens:
      (_, second), *_ = token.alternatives
      assert len(token.alternatives) == 3 and second <= token.log_prob <= 0
      assert 0 <= token.start < token.end <= 2.6


def test_silence_follows_every_window(make_model, make_hearing):
  """A decoder writes each window of a long recording as if it were all of it."""
  model = make_model('attention')
  model.encoder.config = dataclasses.replace(model.encoder.config, trailing_silence=50)
  hearing, samples = make_hearing(model), noise(5.7, 3)
  windows = Windows(hearing.recogniser.sizes)
  parts = [*windows.append(samples), windows.finish()]
  assert len(parts) > 2 and hearing.recogniser.sizes.window <= 250
  heard, alone = hearing.hear(samples), []
  for window in parts:
    first, stop = window.own
    assert window.alone().own == (0, None)
    alone.append(hearing.recogniser.hear(window.alone()).embeddings)
    if stop is not None:
      assert len(window.alone().samples) == (stop - first) * 160
  assert len(heard.embeddings) >= sum(map(len, alone)) > 0
  short = noise(0.3, 1)
  padded = np.append(short, np.zeros(8_000, np.float32))
  model.encoder.config = dataclasses.replace(model.encoder.config, trailing_silence=0)
  expected = make_hearing(model).hear(padded)
  np.testing.assert_allclose(
    hearing.hear(short).embeddings, expected.embeddings, atol=1e-5
  )


def test_long_silence_costs_nothing(model, make_hearing, monkeypatch):
  hearing = make_hearing(model)

  def refuse(*_):
    raise AssertionError('silence was encoded')

  monkeypatch.setattr(hearing.recogniser, 'hear', refuse)
  monkeypatch.setattr(hearing.recogniser, 'encode', refuse)
  heard = hearing.hear(np.zeros(100 * RATE, np.float32))
  assert heard.embeddings.shape == (0, 24) and not heard.tokens
  assert not heard.transcript


def test_what_cannot_be_heard_is_refused(model, make_hearing):
  hearing = make_hearing(model, max_seconds=4.0)
  with pytest.raises(ValueError, match=r'4\.5 s; the limit is 4 s'):
    hearing.hear(np.zeros(72_000, np.float32))
  with pytest.raises(ValueError, match='nan; the limit is 4'):
    hearing.hear(np.asarray([0.1, np.nan, 0.2], np.float32))
  with pytest.raises(ValueError, match='0 samples'):
    hearing.hear(np.zeros(0, np.float32))
  listener = hearing.listen()
  listener.append(noise(2))
  with pytest.raises(ValueError, match=r'5\.0 s; the limit is 4 s'):
    listener.append(noise(3))
  listener.finish()
  for use in (listener.finish, lambda: listener.append(noise(1))):
    with pytest.raises(ValueError, match='finished'):
      use()


def test_what_was_heard_is_remembered_within_a_limit(make_model, make_hearing):
  model = make_model('attention')
  heard = [make_hearing(model).hear(noise(1, seed)) for seed in range(3)]
  limit = heard[0].num_bytes + heard[1].num_bytes + heard[2].num_bytes - 1
  hearing = make_hearing(model, cached_bytes=limit)
  first, second = hearing.hear(noise(1, 0)), hearing.hear(noise(1, 1))
  assert hearing.hear(noise(1, 0)) is first  # used last
  hearing.hear(noise(1, 2))
  assert hearing.hear(noise(1, 0)) is first
  listener = hearing.listen()
  listener.append(noise(1, 0))
  assert listener.finish() is first
  assert hearing.hear(noise(1, 1)) is not second
  assert_equal(second, heard[1])


def test_threads_hear_what_one_hears(make_model, make_hearing):
  hearing = make_hearing(make_model('ctc'), cached_bytes=20_000)
  clips = [noise(1 + 2.5 * (seed % 2), seed % 4) for seed in range(12)]
  expected = [hearing.hear(clip) for clip in clips]
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    for actual, wanted in zip(pool.map(hearing.hear, clips), expected, strict=True):
      assert_equal(actual, wanted)


def test_nothing_compiles_after_the_warm_up(model, make_hearing):
  hearing, messages, compiled = make_hearing(model), [], []
  hearing.warm_up(messages.append)
  assert len(messages) == 2 and '3 s' in messages[-1]
  jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **_: compiled.append(name)
  )
  try:
    for seconds in (0.1, 2.2, 7.7):
      hearing.hear(noise(seconds, 1))
  finally:
    jax.monitoring.clear_event_listeners()
  assert not [name for name in compiled if 'backend_compile' in name]
