# SPDX-License-Identifier: Apache-2.0
import dataclasses

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.augment import Augmentation, Augmenter, Masking, mask_spectrogram
from data_pipeline.features import SAMPLE_RATE
from data_pipeline.noise import coloured_noise
from data_pipeline.random_streams import first_uniforms

NO_CHANGE = Augmentation(0.0, 0.0, (5.0, 30.0), 0.0)
STRONG = Augmentation(0.1, 0.5, (5.0, 30.0), 0.25)


EVERYTHING = dataclasses.replace(
  STRONG,
  noise_share=1.0,
  reverberation_share=1.0,
  babble_share=1.0,
  music_share=1.0,
  clipping_share=1.0,
  line_share=1.0,
  mu_law_share=0.5,
  codec_share=1.0,
)


def augment(audio, settings, rng, length=None, read_others=None):
  return Augmenter(settings)(audio, rng, length, read_others)


def tone(pitch=440.0, seconds=0.5, loudness=0.3):
  time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
  return (loudness * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


def pitch_of(audio):
  spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 1 << 16))
  return np.argmax(spectrum) * SAMPLE_RATE / (1 << 16)


def test_lengths_of_many_utterances_are_those_of_each():
  samples, augmenter = np.arange(4_000, 4_090), Augmenter(STRONG)
  expected = [
    augmenter.length(int(n), np.random.default_rng([7, 1, i]))
    for i, n in enumerate(samples)
  ]
  uniforms = first_uniforms([7, 1], np.arange(len(samples)))
  assert augmenter.lengths(samples, uniforms).tolist() == expected


def test_result_depends_on_audio_and_rng_only():
  for seed in range(8):
    first, second = (augment(tone(), STRONG, np.random.default_rng(seed)) for _ in '12')
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.float32
  other = augment(tone(), STRONG, np.random.default_rng(8))
  assert len(other) != len(first) or (other != first).any()


def test_input_is_not_modified():
  audio = tone()
  augment(audio, STRONG, np.random.default_rng(0))
  np.testing.assert_array_equal(audio, tone())


@given(st.integers(0, 1000), st.floats(0, 0.5))
def test_tempo_and_pitch_change_together(seed, speed):
  settings = dataclasses.replace(NO_CHANGE, speed=speed)
  changed = augment(tone(), settings, np.random.default_rng(seed))
  factor = len(tone()) / len(changed)
  assert 1 / (1 + speed) - 1e-3 <= 1 / factor <= 1 / (1 - speed) + 1e-3
  assert pitch_of(changed) == pytest.approx(440 * factor, rel=0.01)


@given(st.integers(0, 1000), st.integers(400, 9_000))
def test_augmented_length_matches_augment(seed, samples):
  audio = tone()[:samples]
  changed = augment(audio, STRONG, np.random.default_rng(seed))
  length = Augmenter(STRONG).length(len(audio), np.random.default_rng(seed))
  assert len(changed) == length


def test_zero_settings_change_only_the_loudness():
  changed = augment(tone(), NO_CHANGE, np.random.default_rng(0))
  gain = np.abs(changed).max() / np.abs(tone()).max()
  assert 0.5 <= gain <= 1.2
  np.testing.assert_allclose(changed, tone() * gain, atol=1e-6)


def test_telephone_removes_frequencies_above_4_khz():
  settings = dataclasses.replace(NO_CHANGE, telephone_share=1.0)
  for pitch, expected in ((1_000, 1.0), (6_000, 0.0)):
    plain = augment(tone(pitch), NO_CHANGE, np.random.default_rng(0))
    narrow = augment(tone(pitch), settings, np.random.default_rng(0))
    remaining_power = np.square(narrow).sum() / np.square(plain).sum()
    assert len(narrow) == len(plain)
    assert remaining_power == pytest.approx(expected, abs=0.02)


def test_silence_stays_silent():
  changed = augment(
    np.zeros(4_000, np.float32),
    dataclasses.replace(EVERYTHING, codec_share=0.0),  # codecs add some dither
    np.random.default_rng(0),
    read_others=read_others,
  )
  assert not changed.any()


def augment_without_new_effects(audio, settings, rng):
  """The chain as it is defined without rooms, further noise, devices and lines."""
  length = round(len(audio) / (1 + settings.speed * rng.uniform(-1, 1)))
  audio = soxr.resample(audio, SAMPLE_RATE * len(audio) / length, SAMPLE_RATE)
  if rng.random() < settings.telephone_share:
    narrow = soxr.resample(audio, SAMPLE_RATE, SAMPLE_RATE // 2)
    audio = soxr.resample(narrow, SAMPLE_RATE // 2, SAMPLE_RATE)
  audio = np.pad(audio, (0, max(0, length - len(audio))))[:length]
  if rng.random() < settings.noise_share:
    audio = audio + coloured_noise(audio, rng.uniform(*settings.noise_snr), rng)
  return np.clip(audio * rng.uniform(0.5, 1.2), -1, 1).astype(np.float32)


@pytest.mark.parametrize('settings', [NO_CHANGE, STRONG])
def test_effects_that_are_off_leave_every_byte_as_it_is(settings):
  for seed in range(20):
    rngs = [np.random.default_rng([seed, 3]) for _ in range(2)]
    changed = augment(tone(), settings, rngs[0], read_others=read_others)
    expected = augment_without_new_effects(tone(), settings, rngs[1])
    assert changed.tobytes() == expected.tobytes()
    # The masks of the spectrogram are drawn next.
    assert rngs[0].random() == rngs[1].random()


def read_others(rng):
  return [tone(rng.uniform(100, 4_000), seconds) for seconds in (0.2, 0.7, 0.9)]


@given(st.integers(0, 1000), st.integers(400, 9_001))
def test_all_effects_together(seed, samples):
  audio = tone()[:samples]
  first, second = (
    augment(audio, EVERYTHING, np.random.default_rng(seed), None, read_others)
    for _ in '12'
  )
  np.testing.assert_array_equal(first, second)
  length = Augmenter(EVERYTHING).length(len(audio), np.random.default_rng(seed))
  assert len(first) == length and first.dtype == np.float32
  assert np.isfinite(first).all() and np.abs(first).max() <= 1


@pytest.mark.parametrize(
  'effect',
  ['reverberation', 'babble', 'music', 'recorded', 'clipping', 'line', 'codec'],
)
def test_every_effect_changes_the_audio_and_draws_alone(effect, noise_folder):
  settings = dataclasses.replace(
    NO_CHANGE, noise_folders=(str(noise_folder),), **{f'{effect}_share': 1.0}
  )
  audio = np.convolve(np.random.default_rng(0).normal(size=9_000), 10 * [0.03], 'same')
  plain, changed = (
    augment(audio.astype(np.float32), s, np.random.default_rng(1), None, read_others)
    for s in (NO_CHANGE, settings)
  )
  assert plain.shape == changed.shape
  assert np.abs(plain - changed).max() > 0.01
  assert np.corrcoef(plain, changed)[0, 1] > 0.1  # the same speech at the same time


@pytest.fixture(scope='module')
def noise_folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('noise')
  soundfile.write(folder / 'hum.wav', tone(120, 0.3), SAMPLE_RATE)
  return folder


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'babble_share': 1.5}, r'babble_share is 1\.5; the limits are 0 and 1'),
    ({'speed': 1.0}, r'speed is 1\.0; it must be .* below 1'),
    (
      {'noise_snr': (9.0, 3.0)},
      r'noise_snr is \(9\.0, 3\.0\); the minimum comes first',
    ),
    ({'gain': (0.0, 1.0)}, r'gain is \(0\.0, 1\.0\); it must be above 0'),
    ({'recorded_share': 0.5}, r'recorded_share is 0\.5, but noise_folders is empty'),
    ({'codec_share': 0.5, 'codecs': ()}, r'codec_share is 0\.5, but codecs is empty'),
  ],
)
def test_settings_out_of_range(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(NO_CHANGE, **changes)


def test_codecs_are_checked_before_any_audio():
  settings = dataclasses.replace(NO_CHANGE, codec_share=0.5, codecs=('opus', 'aac'))
  with pytest.raises(ValueError, match=r"codecs has 'aac'; known: opus, mp3"):
    Augmenter(settings)


def test_loud_audio_is_clipped():
  settings = dataclasses.replace(NO_CHANGE, noise_share=1.0, noise_snr=(0.0, 1.0))
  for seed in range(5):
    changed = augment(tone(loudness=1.0), settings, np.random.default_rng(seed))
    assert np.abs(changed).max() <= 1.0


def test_explicit_length():
  changed = augment(tone(), STRONG, np.random.default_rng(0), length=7_777)
  assert len(changed) == 7_777


@given(st.integers(0, 1000))
def test_masks_are_frequency_bands_and_time_spans(seed):
  settings = Masking(mel_masks=2, mel_width=4, time_masks=1, time_share=0.2)
  log_mel = np.random.default_rng(seed).normal(size=(30, 17)).astype(np.float32)
  masked = mask_spectrogram(log_mel, settings, np.random.default_rng(seed))
  is_masked = masked == log_mel.mean()
  np.testing.assert_array_equal(masked[~is_masked], log_mel[~is_masked])
  assert is_masked.all(axis=0).sum() <= 8 and is_masked.all(axis=1).sum() <= 6
  other_frames = is_masked[~is_masked.all(axis=1)]  # masked by whole bands only
  assert (other_frames.all(axis=0) == other_frames.any(axis=0)).all()
  second = mask_spectrogram(log_mel, settings, np.random.default_rng(seed))
  np.testing.assert_array_equal(masked, second)


def test_masks_cover_a_typical_fraction():
  settings = Masking(mel_masks=1, mel_width=17, time_masks=1, time_share=1.0)
  log_mel = np.random.default_rng(0).normal(size=(30, 17)).astype(np.float32)
  fractions = []
  for seed in range(40):
    masked = mask_spectrogram(log_mel, settings, np.random.default_rng(seed))
    fractions.append(np.mean(masked != log_mel))
  assert 0.5 < np.mean(fractions) < 0.9
