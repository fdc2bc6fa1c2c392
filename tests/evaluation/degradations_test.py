# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from acl_jax.evaluation import degradations
from acl_jax.evaluation.degradations import DEGRADATIONS, NOISES, SNRS, degrade
from data_pipeline.channels import encode
from data_pipeline.corpora.utterance import Utterance
from data_pipeline.noise import pink_noise

RATE = 16_000


def tone(pitch=440.0, samples=7_001, loudness=0.05):
  return (loudness * np.sin(2 * np.pi * pitch * np.arange(samples) / RATE)).astype(
    np.float32
  )


def others(count):
  return [tone(300.0 + 170 * i, 2_000 + 900 * i) for i in range(count)]


@pytest.mark.parametrize('name', DEGRADATIONS)
def test_a_degradation_depends_on_the_id_and_the_name_alone(name):
  first, second = (degrade(tone(), 'u1', name, others) for _ in '12')
  np.testing.assert_array_equal(first, second)
  assert first.dtype == np.float32 and np.isfinite(first).all()
  assert np.abs(first).max() <= 1.1
  if name in ('slow', 'fast'):
    assert len(first) == pytest.approx(
      7_001 / {'slow': 0.85, 'fast': 1.15}[name], abs=1
    )
  else:
    assert first.shape == (7_001,)
    assert np.abs(first - tone()).max() > 1e-5
  if name not in ('slow', 'fast', 'telephone', 'mp3_16kbit'):  # nothing random in them
    assert (degrade(tone(), 'u2', name, others) != first).any()


@pytest.mark.parametrize('name', NOISES)
@settings(max_examples=5, deadline=None)
@given(st.text(max_size=5), st.sampled_from(SNRS))
def test_noise_has_the_snr_in_its_name(name, id, snr):
  audio = tone()
  mixed = degrade(audio, id, f'{name}_{snr}db', others)
  noise = mixed.astype(float) - audio
  ratio = np.mean(audio.astype(float) ** 2) / np.mean(noise**2)
  assert 10 * np.log10(ratio) == pytest.approx(snr, abs=0.1)


def test_a_loud_sum_becomes_quieter_as_a_whole():
  mixed = degrade(tone(loudness=0.99), 'u', 'pink_0db', others)
  assert np.abs(mixed).max() == pytest.approx(1, abs=1e-6)


def test_pink_noise_has_the_same_power_in_every_octave():
  noise = pink_noise(1 << 16, np.random.default_rng(0))
  power = np.abs(np.fft.rfft(noise)) ** 2
  octaves = [power[1 << k : 2 << k].sum() for k in range(9, 15)]
  assert max(octaves) / min(octaves) < 1.3


def test_the_mp3_has_16_kbit_per_second():
  noise = pink_noise(5 * RATE, np.random.default_rng(0)) * np.float32(1e-2)
  noise = noise / np.abs(noise).max() * 0.3
  bits = len(encode(noise, 'mp3', degradations.MP3_LEVEL)) * 8
  assert bits / 5 / 1_000 == pytest.approx(16, rel=0.1)


@pytest.mark.parametrize('name, pitch', [('slow', 850), ('fast', 1_150)])
def test_speed_changes_the_pitch_too(name, pitch):
  spectrum = np.abs(np.fft.rfft(degrade(tone(1_000, RATE), 'u', name, others)))
  found = np.argmax(spectrum) * RATE / (2 * (len(spectrum) - 1))
  assert found == pytest.approx(pitch, abs=3)


def test_no_name_changes_nothing():
  assert degrade(tone(), 'u', '', others) is not None
  np.testing.assert_array_equal(degrade(tone(), 'u', '', others), tone())


def test_what_cannot_be_done_is_one_sentence():
  with pytest.raises(ValueError, match="degradation is 'hiss'; known: pink_20db, "):
    degrade(tone(), 'u', 'hiss', others)
  with pytest.raises(ValueError, match='babble needs at least 1 other utterance'):
    degrade(tone(), 'u', 'babble_5db', lambda count: [])


def test_others_never_include_the_utterance_and_skip_what_cannot_be_read(tmp_path):
  utterances = []
  for i in range(6):
    path = tmp_path / f'{i}.wav'
    soundfile.write(path, np.full(700, (i + 1) / 10, np.float32), RATE, 'FLOAT')
    utterances.append(Utterance(f'u{i}', path, 'text'))
  (tmp_path / '3.wav').write_bytes(b'RIFF')

  def read(count, order):
    chosen = degradations.others_of(utterances[2], order)(count)
    return [round(float(other[0]) * 10) - 1 for other in chosen]

  assert sorted(read(9, utterances)) == [0, 1, 4, 5]
  assert read(3, utterances) == read(3, utterances[::-1])
  assert len(read(3, utterances)) == 3
