# SPDX-License-Identifier: Apache-2.0
import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import audio
from data_pipeline.audio import AudioError, Limits, read

FORMATS = [
  ('x.wav', 'PCM_U8', 8_000, 1, 0.02),
  ('x.wav', 'PCM_16', 44_100, 2, 1e-3),
  ('x.wav', 'PCM_24', 192_000, 1, 1e-3),
  ('x.wav', 'PCM_32', 16_000, 8, 1e-3),
  ('x.wav', 'FLOAT', 22_050, 1, 1e-3),
  ('x.wav', 'DOUBLE', 48_000, 1, 1e-3),
  ('x.flac', 'PCM_16', 32_000, 2, 1e-3),
  ('x.flac', 'PCM_24', 48_000, 1, 1e-3),
  ('x.ogg', 'VORBIS', 16_000, 1, 0.05),
  ('x.ogg', 'OPUS', 48_000, 2, 0.05),
  ('x.mp3', 'MPEG_LAYER_III', 44_100, 1, 0.05),
]


@pytest.mark.parametrize('name, subtype, rate, channels, tolerance', FORMATS)
def test_decodes_to_16_khz_mono(
  tmp_path, record, name, subtype, rate, channels, tolerance
):
  path = record(tmp_path / name, subtype, rate, seconds=0.5, channels=channels)
  samples = read(path)
  assert samples.dtype == np.float32 and samples.shape == (8_000,)
  reference = read(record(tmp_path / 'reference.wav', 'FLOAT', seconds=0.5))
  gain = 0.5 if channels == 1 else 0.75  # the mean of the channels
  inner = slice(200, -200)  # a resampler rings at the edges
  np.testing.assert_allclose(
    samples[inner], 2 * gain * reference[inner], atol=tolerance
  )
  np.testing.assert_array_equal(samples, read(path.read_bytes()))


def test_16_khz_samples_come_through_exactly(tmp_path, record):
  path = record(tmp_path / 'x.flac', 'PCM_16')
  stored, _ = soundfile.read(path, dtype='float32')
  np.testing.assert_array_equal(read(path), stored)


def test_blocks_do_not_show(tmp_path, record, monkeypatch):
  path = record(tmp_path / 'x.mp3', rate=44_100, channels=2, seconds=1)
  whole = read(path)
  monkeypatch.setattr(audio, '_BLOCK', 1 << 12)
  np.testing.assert_array_equal(read(path), whole)


def refused(source, field, **limits):
  """The sentence with which a source is refused, checked for its form."""
  with pytest.raises(AudioError) as caught:
    read(source, limits=Limits(**limits))
  assert caught.value.field == field
  sentence = str(caught.value)
  name = 'audio' if isinstance(source, bytes) else str(source)
  assert sentence.startswith(f'{name}: {field} ') and '\n' not in sentence
  return sentence


@pytest.mark.parametrize('name, subtype, rate, channels, _', FORMATS)
@pytest.mark.parametrize('share', [0.0, 0.01, 0.4, 0.99])
def test_truncated(tmp_path, record, name, subtype, rate, channels, _, share, capfd):
  whole = record(tmp_path / name, subtype, rate, channels=channels).read_bytes()
  refused(whole[: int(len(whole) * share)], 'content')


def test_an_mp3_that_does_not_state_its_length(tmp_path):
  time = np.arange(5 * 24_000) / 24_000
  noise = np.random.default_rng(0).standard_normal(len(time))
  wave = 0.3 * np.sin(2_000 * time) + 0.1 * noise * (time > 2)
  for mode in ('CONSTANT', 'VARIABLE'):
    with soundfile.SoundFile(
      tmp_path / 'x.mp3', 'w', 24_000, 1, compression_level=0.6, bitrate_mode=mode
    ) as file:
      file.write(wave)
    data = (tmp_path / 'x.mp3').read_bytes()
    assert len(read(data)) == 5 * 16_000
    bare = data[data.index(data[:2], 4) :]  # without the first frame, which states it
    if mode == 'CONSTANT':
      assert len(read(bare)) == pytest.approx(5 * 16_000, rel=0.02)
    else:  # the library would have given the first part of it
      assert 'frames' in refused(bare, 'content')


def test_not_there_or_not_a_file(tmp_path):
  assert 'No such file' in refused(tmp_path / 'none.wav', 'file')
  refused(tmp_path, 'file')
  refused('/dev/zero', 'file')


def test_not_audio(tmp_path, record):
  refused(b'', 'content')
  refused(b'hello, this is a text file', 'content')
  refused(record(tmp_path / 'x.aiff').read_bytes(), 'content')
  refused(record(tmp_path / 'x.wav', format='RF64').read_bytes(), 'content')
  refused(b'fLaC' + bytes(100), 'content')


@pytest.mark.parametrize('subtype', ['IMA_ADPCM', 'MS_ADPCM', 'ULAW', 'ALAW', 'GSM610'])
def test_other_wav_codecs_are_refused(tmp_path, record, subtype):
  data = record(tmp_path / 'x.wav', subtype, rate=8_000).read_bytes()
  refused(data, 'codec')
  tag = b'ID3\x04\0\0\0\0\0\x05tag..'
  refused(tag + data, 'codec')  # the library would look behind the tag, too


def test_extensible_wav(tmp_path, record):
  plain = record(tmp_path / 'x.wav', 'PCM_24')
  extensible = record(tmp_path / 'y.wav', 'PCM_24', format='WAVEX')
  np.testing.assert_array_equal(read(extensible), read(plain))
  disguised = bytearray(extensible.read_bytes())
  guid = disguised.index(bytes.fromhex('0100000000001000800000aa00389b71'))
  disguised[guid] = 0x11  # IMA-ADPCM as the sub-format
  refused(bytes(disguised), 'codec')


def test_only_checked_chunks_reach_the_decoder(tmp_path, record):
  data = record(tmp_path / 'x.wav', 'PCM_16').read_bytes()
  second = struct.pack('<4sIHHIIHHHH', b'fmt ', 20, 0x11, 1, 16_000, 0, 0, 4, 2, 0)
  np.testing.assert_array_equal(read(data + second), read(data))


def test_wav_from_a_pipe_has_no_length(tmp_path, record):
  data = record(tmp_path / 'x.wav', 'PCM_16').read_bytes()
  at = data.index(b'data') + 4
  piped = data[:at] + b'\xff\xff\xff\xff' + data[at + 4 :]
  np.testing.assert_array_equal(read(piped), read(data))


def test_durations(tmp_path, record):
  empty = io.BytesIO()
  soundfile.write(empty, np.zeros(0), 16_000, format='WAV')
  refused(empty.getvalue(), 'duration')
  refused(record(tmp_path / 'x.wav', seconds=0.024), 'duration')
  read(record(tmp_path / 'x.wav', seconds=0.025))
  path = record(tmp_path / 'x.flac', seconds=3)
  assert 'limit of 2 s' in refused(path, 'duration', seconds=2.0)


def test_two_hours_of_silence_are_small_and_refused(tmp_path):
  path = tmp_path / 'long.flac'
  with soundfile.SoundFile(path, 'w', 8_000, 1, 'PCM_16') as file:
    for _ in range(120):
      file.write(np.zeros(60 * 8_000, np.int16))
  assert path.stat().st_size < 1 << 20
  assert '600 s' in refused(path, 'duration')


def test_limits_on_size_rate_and_channels(tmp_path, record):
  path = record(tmp_path / 'x.flac')
  assert '999' in refused(path, 'size', encoded_bytes=999)
  assert '999' in refused(path.read_bytes(), 'size', encoded_bytes=999)
  refused(path, 'decoded size', decoded_bytes=4 * 16_000 // 4)
  assert '4000 Hz' in refused(record(tmp_path / 'x.wav', rate=4_000), 'sample rate')
  assert '192001' in refused(record(tmp_path / 'x.wav', rate=192_001), 'sample rate')
  assert '9, limit 8' in refused(record(tmp_path / 'x.wav', channels=9), 'channels')


def test_a_forged_flac_header_is_not_believed(tmp_path, record):
  data = bytearray(record(tmp_path / 'x.flac').read_bytes())
  packed = int.from_bytes(data[18:26], 'big')  # rate, channels, bits, frames
  data[18:26] = (packed & ~(0xFFFFF << 44) | 655_350 << 44).to_bytes(8, 'big')
  refused(bytes(data), 'sample rate')
  data[18:26] = (packed | 0xFFFFFFFFF).to_bytes(8, 'big')  # 2**36 - 1 frames
  refused(bytes(data), 'content')


@pytest.mark.parametrize('channels', [0, 9, 0xFFFF])
def test_forged_channels(tmp_path, record, channels):
  data = bytearray(record(tmp_path / 'x.wav', 'PCM_32').read_bytes())
  data[22:24] = struct.pack('<H', channels)
  with pytest.raises(AudioError):
    read(bytes(data))


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf, 32_768.0])
def test_samples_that_are_no_sound(tmp_path, value):
  samples = np.zeros(1_600, np.float32)
  samples[800] = value
  soundfile.write(tmp_path / 'x.wav', samples, 16_000, 'FLOAT')
  refused(tmp_path / 'x.wav', 'samples')


@given(st.data())
def test_damaged_bytes_are_refused_or_read(data):
  file = io.BytesIO()
  time = np.arange(2_000) / 16_000
  format = data.draw(st.sampled_from(['WAV', 'FLAC', 'OGG', 'MP3']))
  soundfile.write(file, np.sin(time * 2_000) / 2, 16_000, format=format)
  content = bytearray(file.getvalue())
  for _ in range(data.draw(st.integers(1, 8))):
    place = data.draw(st.integers(0, min(200, len(content) - 1)))
    content[place] = data.draw(st.integers(0, 255))
  try:
    samples = read(bytes(content))
  except AudioError:
    return
  assert np.isfinite(samples).all()
