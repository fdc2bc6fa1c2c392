# SPDX-License-Identifier: Apache-2.0
import shutil

import numpy as np
import pytest
import soundfile

from data_pipeline.noise_folders import NoiseFolders


def write(path, samples=9_000, rate=16_000, value=0.5, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  soundfile.write(path, np.full(samples, value, np.float32), rate, **options)


def test_files_are_found_at_any_depth_in_a_fixed_order(tmp_path):
  write(tmp_path / 'b/deep/two.flac', value=0.2)
  write(tmp_path / 'a.WAV', value=0.1)
  write(tmp_path / 'c/three.ogg', value=0.3)
  (tmp_path / 'c/README.txt').write_text('noise')
  (tmp_path / 'c/._three.ogg').write_text('of macOS')
  folder = tmp_path / 'linked'
  folder.mkdir()
  for name in ('a.WAV', 'b', 'c'):
    (folder / name).symlink_to(tmp_path / name)
  linked = NoiseFolders([folder])._files
  assert [path.name for path in linked] == ['a.WAV', 'two.flac', 'three.ogg']
  shutil.rmtree(folder)
  noises = NoiseFolders([tmp_path])
  assert [path.name for path in noises._files] == ['a.WAV', 'two.flac', 'three.ogg']
  heard = {
    round(float(np.median(noises.draw(4_000, np.random.default_rng(seed)))), 1)
    for seed in range(20)
  }
  assert heard == {0.1, 0.2, 0.3}


def test_excerpts_are_functions_of_the_generator(tmp_path):
  ramp = np.linspace(0, 0.9, 30_000, dtype=np.float32)
  soundfile.write(tmp_path / 'ramp.wav', ramp, 16_000, 'FLOAT')
  noises = NoiseFolders([tmp_path])
  starts = []
  for seed in range(10):
    first, second = (noises.draw(700, np.random.default_rng(seed)) for _ in '12')
    np.testing.assert_array_equal(first, second)
    start = np.searchsorted(ramp, first[0])
    np.testing.assert_array_equal(first, ramp[start : start + 700])
    starts.append(start)
  assert len(set(starts)) == 10 and max(starts) > 20_000 and min(starts) < 10_000


def test_other_rates_are_resampled(tmp_path):
  time = np.arange(24_000) / 48_000
  tone = (0.4 * np.sin(2 * np.pi * 1_000 * time)).astype(np.float32)
  soundfile.write(tmp_path / 'tone.wav', tone, 48_000)
  heard = NoiseFolders([tmp_path]).draw(4_000, np.random.default_rng(0))
  assert len(heard) == 4_000
  assert np.argmax(np.abs(np.fft.rfft(heard))) == 250  # of bins of 4 Hz: 1 kHz


def test_a_short_file_is_read_as_a_whole(tmp_path):
  write(tmp_path / 'short.mp3', 2_000)
  heard = NoiseFolders([tmp_path]).draw(9_000, np.random.default_rng(0))
  assert 1_000 < len(heard) < 5_000


def test_broken_files_are_left_out_and_logged_once(tmp_path, caplog):
  write(tmp_path / 'a.wav')
  (tmp_path / 'b.wav').write_bytes(b'RIFF of nothing')
  noises = NoiseFolders([tmp_path])
  for seed in range(20):
    drawn = noises.draw(500, np.random.default_rng(seed))
    assert drawn is None or np.median(drawn) == 0.5
  assert caplog.text.count('b.wav') == 1


def test_folders_without_noise(tmp_path):
  with pytest.raises(ValueError, match=r'absent: .* not a folder'):
    NoiseFolders([tmp_path / 'absent'])
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match=r'empty: .*no audio files \(.*\.flac, '):
    NoiseFolders([tmp_path / 'empty'])
  write(tmp_path / 'low/hum.wav', rate=4_000)
  with pytest.raises(
    ValueError, match=r'low: none of the first 1 .*hum\.wav: sample rate is 4000 Hz'
  ):
    NoiseFolders([tmp_path / 'low'])


def test_the_number_of_files_is_limited(tmp_path, monkeypatch):
  for i in range(3):
    write(tmp_path / f'{i}.wav')
  monkeypatch.setattr('data_pipeline.noise_folders.MAX_FILES', 2)
  with pytest.raises(ValueError, match='more than 2 audio files'):
    NoiseFolders([tmp_path])
