# SPDX-License-Identifier: Apache-2.0
import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import libsndfile
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
  tmp_path, write_audio, name, subtype, rate, channels, tolerance
):
  path = write_audio(tmp_path / name, subtype, rate, seconds=0.5, channels=channels)
  samples = read(path)
  assert samples.dtype == np.float32 and samples.shape == (8_000,)
  reference = read(write_audio(tmp_path / 'reference.wav', 'FLOAT', seconds=0.5))
  gain = 0.5 if channels == 1 else 0.75  # the mean of the channels
  interior = slice(200, -200)  # the resampler rings at the edges
  np.testing.assert_allclose(
    samples[interior], 2 * gain * reference[interior], atol=tolerance
  )
  np.testing.assert_array_equal(samples, read(path.read_bytes()))


def test_16_khz_samples_are_unchanged(tmp_path, write_audio):
  path = write_audio(tmp_path / 'x.flac', 'PCM_16')
  stored, _ = soundfile.read(path, dtype='float32')
  np.testing.assert_array_equal(read(path), stored)


def test_result_does_not_depend_on_the_block_size(tmp_path, write_audio, monkeypatch):
  path = write_audio(tmp_path / 'x.mp3', rate=44_100, channels=2, seconds=1)
  whole = read(path)
  monkeypatch.setattr(libsndfile, '_BLOCK_SAMPLES', 1 << 12)
  np.testing.assert_array_equal(read(path), whole)


def assert_rejected(source, field, **limits):
  """Assert that `read` raises AudioError of `field`; returns the message."""
  with pytest.raises(AudioError) as caught:
    read(source, limits=Limits(**limits))
  assert caught.value.field == field
  message = str(caught.value)
  name = 'audio' if isinstance(source, bytes) else str(source)
  assert message.startswith(f'{name}: {field} ') and '\n' not in message
  return message


@pytest.mark.parametrize('name, subtype, rate, channels, _', FORMATS)
@pytest.mark.parametrize('share', [0.0, 0.01, 0.4, 0.99])
def test_truncated_file_is_rejected(
  tmp_path, write_audio, name, subtype, rate, channels, _, share, capfd
):
  whole = write_audio(tmp_path / name, subtype, rate, channels=channels).read_bytes()
  assert_rejected(whole[: int(len(whole) * share)], 'content')


def test_mp3_without_a_length_header(tmp_path):
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
    headerless = data[data.index(data[:2], 4) :]  # without the first frame
    # libsndfile alone would return a part of the variable one.
    assert len(read(headerless)) == pytest.approx(5 * 16_000, rel=0.02)


def test_missing_file_folder_and_device_are_rejected(tmp_path):
  assert 'No such file' in assert_rejected(tmp_path / 'none.wav', 'file')
  assert_rejected(tmp_path, 'file')
  assert_rejected('/dev/zero', 'file')


def test_other_formats_are_rejected():
  assert_rejected(b'', 'content')
  assert_rejected(b'hello, this is a text file', 'content')
  assert_rejected(b'#EXTM3U\n#EXTINF:1\nfile:///etc/passwd\n', 'content')
  assert_rejected(b"ffconcat version 1.0\nfile '/etc/passwd'\n", 'content')
  assert_rejected(b'fLaC' + bytes(100), 'content')


def test_extensible_wav(tmp_path, write_audio):
  plain = write_audio(tmp_path / 'x.wav', 'PCM_24')
  extensible = write_audio(tmp_path / 'y.wav', 'PCM_24', format='WAVEX')
  np.testing.assert_array_equal(read(extensible), read(plain))
  disguised = bytearray(extensible.read_bytes())
  guid = disguised.index(bytes.fromhex('0100000000001000800000aa00389b71'))
  disguised[guid] = 0x11  # IMA-ADPCM as the sub-format
  assert_rejected(bytes(disguised), 'content')


def test_second_format_chunk_is_ignored(tmp_path, write_audio):
  data = write_audio(tmp_path / 'x.wav', 'PCM_16').read_bytes()
  second = struct.pack('<4sIHHIIHHHH', b'fmt ', 20, 0x11, 1, 16_000, 0, 0, 4, 2, 0)
  np.testing.assert_array_equal(read(data + second), read(data))


def test_piped_wav_without_a_length(tmp_path, write_audio):
  data = write_audio(tmp_path / 'x.wav', 'PCM_16').read_bytes()
  offset = data.index(b'data') + 4
  piped = data[:offset] + b'\xff\xff\xff\xff' + data[offset + 4 :]
  np.testing.assert_array_equal(read(piped), read(data))


def test_duration_limits(tmp_path, write_audio):
  empty = io.BytesIO()
  soundfile.write(empty, np.zeros(0), 16_000, format='WAV')
  assert_rejected(empty.getvalue(), 'duration')
  assert_rejected(write_audio(tmp_path / 'x.wav', seconds=0.024), 'duration')
  read(write_audio(tmp_path / 'x.wav', seconds=0.025))
  path = write_audio(tmp_path / 'x.flac', seconds=3)
  assert '2 s' in assert_rejected(path, 'duration', seconds=2.0)


def test_small_file_with_two_hours_of_silence_is_rejected(tmp_path):
  path = tmp_path / 'long.flac'
  with soundfile.SoundFile(path, 'w', 8_000, 1, 'PCM_16') as file:
    for _ in range(120):
      file.write(np.zeros(60 * 8_000, np.int16))
  assert path.stat().st_size < 1 << 20
  assert '600 s' in assert_rejected(path, 'duration')


def test_limits_on_size_rate_and_channels(tmp_path, write_audio):
  path = write_audio(tmp_path / 'x.flac')
  assert '999' in assert_rejected(path, 'size', encoded_bytes=999)
  assert '999' in assert_rejected(path.read_bytes(), 'size', encoded_bytes=999)
  assert_rejected(path, 'decoded size', decoded_bytes=4 * 16_000 // 4)
  assert '4000 Hz' in assert_rejected(
    write_audio(tmp_path / 'x.wav', rate=4_000), 'sample rate'
  )
  assert '192001' in assert_rejected(
    write_audio(tmp_path / 'x.wav', rate=192_001), 'sample rate'
  )
  assert '9, limit 8' in assert_rejected(
    write_audio(tmp_path / 'x.wav', channels=9), 'channels'
  )


def test_forged_flac_header_is_rejected(tmp_path, write_audio):
  data = bytearray(write_audio(tmp_path / 'x.flac').read_bytes())
  packed = int.from_bytes(data[18:26], 'big')  # rate, channels, bits, frames
  data[18:26] = (packed & ~(0xFFFFF << 44) | 655_350 << 44).to_bytes(8, 'big')
  assert_rejected(bytes(data), 'sample rate')
  data[18:26] = (packed | 0xFFFFFFFFF).to_bytes(8, 'big')  # 2**36 - 1 frames
  assert_rejected(bytes(data), 'content')


@pytest.mark.parametrize('channels', [0, 9, 0xFFFF])
def test_forged_channel_count_is_rejected(tmp_path, write_audio, channels):
  data = bytearray(write_audio(tmp_path / 'x.wav', 'PCM_32').read_bytes())
  data[22:24] = struct.pack('<H', channels)
  with pytest.raises(AudioError):
    read(bytes(data))


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf, 32_768.0])
def test_samples_out_of_range_are_rejected(tmp_path, value):
  samples = np.zeros(1_600, np.float32)
  samples[800] = value
  soundfile.write(tmp_path / 'x.wav', samples, 16_000, 'FLOAT')
  assert_rejected(tmp_path / 'x.wav', 'samples')


@settings(max_examples=50)
@given(st.data())
def test_damaged_bytes_raise_audio_error_or_decode(data):
  file = io.BytesIO()
  time = np.arange(2_000) / 16_000
  format = data.draw(st.sampled_from(['WAV', 'FLAC', 'OGG', 'MP3']))
  soundfile.write(file, np.sin(time * 2_000) / 2, 16_000, format=format)
  content = bytearray(file.getvalue())
  for _ in range(data.draw(st.integers(1, 8))):
    position = data.draw(st.integers(0, min(200, len(content) - 1)))
    content[position] = data.draw(st.integers(0, 255))
  try:
    samples = read(bytes(content))
  except AudioError:
    return
  assert np.isfinite(samples).all()
