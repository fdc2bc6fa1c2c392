# SPDX-License-Identifier: Apache-2.0
"""Words are heard; silence, noise, tones, clicks and 0.1 s of sound are not."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import audio, voice_activity

RECORDINGS = Path(__file__).parents[2] / 'data_pipeline/recordings/audio'
WORDS = ('activated', 'digits-7', 'agent-pass', 'cancelled')


@pytest.fixture(params=['silero', 'energy'])
def has_speech(request, monkeypatch):
  if request.param == 'silero' and voice_activity.find_silero() is None:
    pytest.skip('no package has the model')
  if request.param == 'energy':
    monkeypatch.setattr(voice_activity, '_shared_silero', lambda: None)
  return voice_activity.has_speech


@pytest.mark.parametrize('word', WORDS)
def test_words_are_heard_at_any_level_and_in_noise(has_speech, word):
  samples = audio.read(RECORDINGS / f'{word}.ogg')
  noise = np.random.default_rng(0).standard_normal(len(samples)).astype(np.float32)
  for gain in (1.0, 0.02):
    assert has_speech(samples * np.float32(gain))
  power = np.square(samples).mean() / 10
  assert has_speech(samples + np.sqrt(power) * noise)


def test_silence_noise_tones_and_clicks_are_not(has_speech):
  time = np.arange(48_000) / 16_000
  noise = np.random.default_rng(0).standard_normal(48_000)
  click = np.zeros(48_000)
  click[9_000:9_100] = 0.8
  quiet = [np.zeros(n) for n in (0, 1, 511, 40_000)]
  hum = [0.3 * np.sin(2 * np.pi * hertz * time) for hertz in (50, 440)]
  noises = [gain * noise for gain in (0.2, 0.01, 0.0005)]
  for samples in (*quiet, *hum, *noises, click):
    assert not has_speech(samples.astype(np.float32))


def test_a_tenth_of_a_second_is_no_word(has_speech):
  for word in WORDS:
    samples = audio.read(RECORDINGS / f'{word}.ogg')
    middle = len(samples) // 2
    assert not has_speech(samples[middle : middle + 1_600])


@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(0, 24_000), max_size=6), energy=st.booleans())
def test_how_samples_arrive_does_not_matter(cuts, energy):
  rng = np.random.default_rng(3)
  envelope = np.repeat(rng.uniform(0, 0.3, 30), 800)
  samples = (envelope * rng.standard_normal(24_000)).astype(np.float32)
  make = voice_activity.VoiceActivity if energy else voice_activity.listen
  cut, whole = make(), make()
  for piece in np.split(samples, sorted(cuts)):
    cut.append(piece)
  whole.append(samples)
  assert cut.finish() == whole.finish()


def test_no_model_means_energy(monkeypatch):
  assert isinstance(voice_activity.SpeechModels(None)(), voice_activity.EnergyModel)
  files = (('numpy', 'no.onnx'), ('nothing-here', 'x'))
  monkeypatch.setattr(voice_activity, 'SILERO_FILES', files)
  assert voice_activity.find_silero() is None
