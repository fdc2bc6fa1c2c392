# SPDX-License-Identifier: Apache-2.0
import threading

import numpy as np
import pytest

from acl_jax.evaluation import heard_speech
from acl_jax.evaluation.cascade import Recogniser
from acl_jax.evaluation.examples import read_manifest
from acl_jax.evaluation.heard_speech import Listener
from acl_jax.evaluation.tasks.task import Speech
from acl_jax.hearing.heard import Heard
from acl_jax.hearing.hearing import Hearing
from data_pipeline import audio


class StubHearing(Hearing):
  """Counts what it hears."""

  max_seconds = 9.0

  def __init__(self, model):
    self.model, self.calls = model, []

  def hear_all(self, recordings):
    for index, samples in reversed([*enumerate(recordings)]):
      self.calls.append(len(samples))
      clip = np.full((2, 24), samples.std())
      yield index, Heard('', clip, f'heard {len(samples)}', (), 1.0)


class SlowRecogniser(Recogniser):
  """Starts to answer once `at_once` threads have asked."""

  sha256, at_once = '1' * 64, 3

  def __init__(self):
    self.calls, self.barrier = [], threading.Barrier(self.at_once)

  def __call__(self, waveform, language='en'):
    self.calls.append((len(waveform), language))
    self.barrier.wait(timeout=20)
    return f'{len(waveform)} {language}'


@pytest.fixture
def listen(model, tmp_path, monkeypatch):
  monkeypatch.setattr(heard_speech, 'hear_all', StubHearing.hear_all)

  def listen(speech, recogniser=None):
    hearing = StubHearing(model)
    listener = Listener(hearing, recogniser, tmp_path / 'cache')
    heard, reasons = listener.listen(speech, lambda count: None)
    assert not reasons
    return heard, hearing.calls

  return listen


def test_degraded_audio_is_stored_as_it_was_heard(listen, manifest):
  utterances, _ = read_manifest(manifest, None)
  clean, noisy = Speech(utterances[0]), Speech(utterances[0], 'pink_0db')
  heard, calls = listen([clean, noisy])
  assert calls == [4_000, 4_000] and heard[clean].degraded is None
  path = heard[noisy].degraded
  played, original = audio.read(path), clean.utterance.read(audio.Limits())
  assert path.is_absolute() and len(played) >= len(original)
  assert 1.2 < played.std() / original.std() < 1.7  # as loud again: 2 ** 0.5
  again, calls = listen([noisy])
  assert calls == [] and again[noisy].degraded == path
  path.unlink()
  assert listen([noisy])[0][noisy].degraded.exists()


def test_each_sound_is_transcribed_once_and_several_at_a_time(listen, manifest):
  utterances, _ = read_manifest(manifest, None)
  recogniser = SlowRecogniser()
  speech = [Speech(each) for each in utterances[:3]]
  same = Speech(utterances[0].__class__('other', utterances[0].audio_filepath, 'x'))
  heard, _ = listen([speech[0], same, *speech[1:]], recogniser)
  assert sorted(recogniser.calls) == [(4_000 + 3_000 * i, 'en') for i in range(3)]
  assert heard[same].cascade_transcript == heard[speech[0]].cascade_transcript
  assert [heard[each].cascade_transcript for each in speech] == [
    f'{4_000 + 3_000 * i} en' for i in range(3)
  ]
  assert [heard[each].transcript for each in speech] == [
    f'heard {4_000 + 3_000 * i}' for i in range(3)
  ]


def test_recordings_are_heard_in_groups_and_none_twice(listen, manifest, monkeypatch):
  utterances, _ = read_manifest(manifest, None)
  speech = [Speech(each) for each in utterances[:3]]
  monkeypatch.setattr(heard_speech, 'GROUP', 2)
  _, calls = listen(speech)
  assert calls == [7_000, 4_000, 10_000]  # each group in the order of the batches
  monkeypatch.setattr(heard_speech, 'GROUP_SECONDS', 0.3)
  heard, calls = listen([Speech(utterances[0], 'pink_0db'), *speech])
  assert calls == [4_000] and len(heard) == 4
