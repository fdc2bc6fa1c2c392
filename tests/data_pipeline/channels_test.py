# SPDX-License-Identifier: Apache-2.0
import io

import numpy as np
import pytest
import scipy.signal
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import channels
from data_pipeline.audio import read
from data_pipeline.features import SAMPLE_RATE


def tone(pitch, seconds=0.5, loudness=0.3):
  time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
  return (loudness * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


def speech_like(seed, samples):
  """Noise below 2 kHz with a syllable every 200 ms."""
  rng = np.random.default_rng(seed)
  noise = scipy.signal.lfilter([1], [1, -0.9], rng.normal(size=samples))
  syllables = 1 + np.sin(2 * np.pi * 5 * np.arange(samples) / SAMPLE_RATE)
  return (0.05 * noise * syllables).astype(np.float32)


@given(st.integers(0, 1000), st.integers(1, 9_001))
def test_clipping_limits_a_small_share(seed, samples):
  audio = speech_like(seed, samples)
  clipped = channels.clip(audio, np.random.default_rng(seed))
  limit = np.abs(clipped).max()
  np.testing.assert_array_equal(clipped, np.clip(audio, -limit, limit))
  assert np.mean(np.abs(audio) > limit) <= channels.CLIPPED[1]
  if samples >= 2_000:
    assert np.mean(np.abs(audio) > limit) > 0


@pytest.mark.parametrize('mu_law', [False, True])
@pytest.mark.parametrize(
  'pitch, kept', [(100, 0), (500, 1), (3_000, 1), (3_800, 0), (6_000, 0)]
)
def test_a_telephone_line_keeps_300_to_3400_hz(pitch, kept, mu_law):
  audio = tone(pitch)
  heard = channels.telephone_line(audio, mu_law)
  assert heard.shape == audio.shape and heard.dtype == np.float32
  middle = slice(1_000, -1_000)  # a tone that begins or ends has other frequencies
  power = np.square(heard[middle]).sum() / np.square(audio[middle]).sum()
  assert power == pytest.approx(kept, abs=0.03)  # rounding adds some


def test_mu_law_is_that_of_a_telephone_corpus():
  audio = speech_like(0, 16_000)
  file = io.BytesIO()
  narrow = soxr.resample(channels.telephone_line(audio, mu_law=False), 16_000, 8_000)
  soundfile.write(file, narrow, 8_000, 'ULAW', format='WAV')
  expected = read(file.getvalue())
  heard = channels.telephone_line(audio, mu_law=True)
  windowed = np.hanning(16_000) * np.stack([expected, heard])
  power = np.abs(np.fft.rfft(windowed, axis=1)) ** 2
  levels = 10 * np.log10(power[:, 4_100:].sum(1) / power.sum(1) + 1e-12)
  assert levels.max() < -90  # dB above 4 kHz; rounding at 16 kHz leaves -41
  error = np.mean((heard - expected) ** 2) / np.mean(expected**2)
  assert -10 * np.log10(error) > 30


def test_mu_law_has_8_bits():
  heard = channels.telephone_line(speech_like(0, 9_000), mu_law=True)
  fine = channels.telephone_line(speech_like(0, 9_000), mu_law=False)
  error = np.mean((heard - fine) ** 2) / np.mean(fine**2)
  assert 20 < -10 * np.log10(error) < 45  # dB; G.711 has about 38


@pytest.mark.parametrize('name', channels.CODECS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), samples=st.integers(8_000, 30_000))
def test_codecs_keep_length_and_timing(name, seed, samples):
  audio = speech_like(seed, samples)
  first, second = (
    channels.apply_codec(audio, name, np.random.default_rng(seed)) for _ in '12'
  )
  np.testing.assert_array_equal(first, second)
  assert first.shape == audio.shape and first.dtype == np.float32
  assert np.isfinite(first).all() and np.abs(first - audio).max() > 0.001
  correlation = scipy.signal.correlate(first, audio, method='fft')
  assert abs(np.argmax(correlation) - (samples - 1)) <= 2


@pytest.mark.parametrize('name', channels.CODECS)
@pytest.mark.parametrize('samples', [1, 400])
def test_codecs_accept_very_short_audio(name, samples):
  heard = channels.apply_codec(
    np.full(samples, 0.1, np.float32), name, np.random.default_rng(0)
  )
  assert heard.shape == (samples,)


def test_a_codec_that_the_library_lacks_is_one_sentence(monkeypatch):
  channels.check_codecs(('opus', 'mp3'))
  monkeypatch.setattr('soundfile.available_subtypes', lambda container: {'VORBIS': ''})
  with pytest.raises(
    ValueError, match=r"codecs has 'opus', which libsndfile \d.*leave"
  ):
    channels.check_codecs(('opus',))
