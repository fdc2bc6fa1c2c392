# SPDX-License-Identifier: Apache-2.0
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acl_jax.serving.realtime.audio import InputBuffer, Speech, Started, Stopped
from acl_jax.serving.realtime.errors import ClientError
from acl_jax.serving.realtime.schema import AudioInput
from data_pipeline import audio as audio_files
from data_pipeline import voice_activity as vad
from tests.serving.realtime_fakes import noise, silence, speech

RECORDINGS = Path(__file__).parents[3] / 'data_pipeline/recordings/audio'


def make_buffer(rate=24_000, model=None, max_seconds=20.0, **detection):
  settings = {'format': {'rate': rate}, 'turn_detection': detection or {}}
  return InputBuffer(
    AudioInput.model_validate(settings), model or vad.EnergyModel(), max_seconds
  )


def pieces(data, cuts):
  cuts = sorted({0, len(data), *(2 * int(c * len(data) / 2) for c in cuts)})
  return [data[a:b] for a, b in itertools.pairwise(cuts)]


def merged(actions):
  """Neighbouring stretches of speech as one."""
  result = []
  for kind, group in itertools.groupby(actions, type):
    if kind is Speech:
      result.append(np.concatenate([x.samples for x in group]).tolist())
    else:
      result += group
  return result


@settings(max_examples=40)
@given(
  parts=st.lists(
    st.tuples(st.sampled_from([-75, -50, -20]), st.floats(0.05, 1.2)), max_size=5
  ),
  cuts=st.lists(st.floats(0, 1), max_size=9),
  rate=st.sampled_from([16_000, 24_000]),
)
def test_turns_do_not_depend_on_how_audio_arrives(parts, cuts, rate):
  data = b''.join(noise(seconds, level, rate) for level, seconds in parts)
  options = dict(silence_duration_ms=200, prefix_padding_ms=100)
  whole = make_buffer(rate, **options).append(data)
  buffer = make_buffer(rate, **options)
  cut = [action for piece in pieces(data, cuts) for action in buffer.append(piece)]
  assert merged(cut) == merged(whole)


def test_a_turn_with_what_was_before_it():
  data = silence(2.0) + speech(1.0) + silence(1.0)
  started, samples, stopped = merged(make_buffer().append(data))
  assert isinstance(started, Started) and isinstance(stopped, Stopped)
  assert started.start_ms == pytest.approx(2_000 - 300, abs=64)
  assert stopped.end_ms == pytest.approx(3_000 + 500, abs=64)
  assert len(samples) / 16 == stopped.end_ms - started.start_ms


def test_neither_clicks_nor_steady_noise_are_turns():
  assert make_buffer().append(silence(1.0) + speech(0.05) + silence(1.0)) == []
  actions = make_buffer().append(noise(6.0, -30))
  assert [type(a) for a in actions if not isinstance(a, Speech)] in (
    [Started, Stopped],  # until the noise is known
    [],
  )


def test_a_turn_ends_when_it_is_as_long_as_it_may_be():
  loud = b''.join(speech(0.5) + silence(0.1) for _ in range(9))
  actions = merged(make_buffer(max_seconds=2.0).append(silence(1.0) + loud))
  lengths = [len(a) / 16_000 for a in actions if isinstance(a, list)]
  assert lengths and max(lengths) <= 2.0 and lengths[0] > 1.9


def test_a_client_that_ends_turns_itself():
  settings = AudioInput.model_validate({'turn_detection': None})
  buffer = InputBuffer(settings, vad.EnergyModel(), 2.0)
  with pytest.raises(ClientError, match='0 ms'):
    buffer.commit()
  data = noise(1.7, -20)
  actions = [
    a for piece in pieces(data, [0.3, 0.31, 0.9]) for a in buffer.append(piece)
  ]
  (samples,) = merged(actions + buffer.commit())
  assert len(samples) == pytest.approx(1.7 * 16_000, abs=2)
  with pytest.raises(ClientError, match='2.1 s; the limit is 2 s'):
    buffer.append(noise(2.1, -20))
  buffer.append(noise(1.9, -20))  # what was refused was not taken
  buffer.clear()
  with pytest.raises(ClientError, match='at least 100 ms'):
    buffer.commit()


@pytest.mark.skipif(vad.find_silero() is None, reason='no package has the model')
def test_silero_hears_words_and_not_noise():
  session = vad.open_silero(vad.find_silero())
  path = RECORDINGS / 'agent-alreadyon.ogg'
  samples = audio_files.read(path)[: 4 * 16_000]
  pcm = (np.clip(samples, -1, 1) * 32_767).astype('<i2').tobytes()
  data = silence(1.0, 16_000) + pcm + silence(1.5, 16_000)
  whole = make_buffer(16_000, vad.SileroModel(session)).append(data)
  assert [type(a) for a in whole if not isinstance(a, Speech)][:1] == [Started]
  assert isinstance(whole[-1], Stopped)
  buffer = make_buffer(16_000, vad.SileroModel(session))
  cut = [a for piece in pieces(data, [0.11, 0.5, 0.501]) for a in buffer.append(piece)]
  assert merged(cut) == merged(whole)
  assert make_buffer(16_000, vad.SileroModel(session)).append(noise(3.0, -25)) == []
