# SPDX-License-Identifier: Apache-2.0
"""Formats and headers beyond the plain ones: read right, or one sentence says why."""

import io
import resource
import struct
import sys
import tracemalloc

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import audio
from data_pipeline.audio import AudioError, Limits, read
from data_pipeline.corpora import open_corpus
from tests.data_pipeline.conftest import tone

SECONDS = 3.1
MIB = 1 << 20


def sound(format, subtype=None, rate=16_000, seconds=SECONDS):
  """Return a file as libsndfile writes it."""
  file = io.BytesIO()
  soundfile.write(file, tone(seconds, rate), rate, subtype, format=format)
  return file.getvalue()


def recording(format, codec, rate, **options):
  """Return a file as FFmpeg writes it, which is what browsers and phones record."""
  file = io.BytesIO()
  with av.open(file, 'w', format=format, options=options) as container:
    stream = container.add_stream(codec, rate=rate)
    stream.layout = 'mono'
    whole = av.AudioFrame.from_ndarray(tone(SECONDS, rate).T.copy(), 'flt', 'mono')
    whole.sample_rate = rate
    to_codec = av.AudioResampler(
      stream.codec_context.format, 'mono', rate, stream.codec_context.frame_size
    )
    for frame in [*to_codec.resample(whole), *to_codec.resample(None), None]:
      container.mux(stream.encode(frame))
  return file.getvalue()


def patched(data, marker, offset, value):
  """Return a file with bytes replaced at an offset from the first `marker`."""
  position = data.index(marker) + offset
  return data[:position] + value + data[position + len(value) :]


def id3(size, footer=False):
  """Return an ID3 tag with a picture's worth of zeros."""
  flags, tail = (0x10, b'3DI\4\0\x10' + bytes(4)) if footer else (0, b'')
  return b'ID3\4\0' + bytes([flags, 0, 0, size >> 7, size & 127]) + bytes(size) + tail


def endless(data):
  """Return an Ogg stream whose last page is not marked as the last."""
  start = data.rindex(b'OggS')
  page = bytearray(data[start:])
  page[5] &= ~4
  page[22:26] = bytes(4)
  checksum = 0
  for byte in page:
    checksum ^= byte << 24
    for _ in range(8):
      checksum = checksum << 1 ^ (checksum >> 31) * 0x1_04C1_1DB7
  page[22:26] = checksum.to_bytes(4, 'little')
  return data[:start] + bytes(page)


WAV = sound('WAV', 'PCM_16')
MP3 = sound('MP3', rate=22_050)
ZERO = struct.pack('<I', 0)
TITLE = b'LIST' + struct.pack('<I', 16) + b'INFOINAM' + b'\4\0\0\0' + b'\xe9t\xe9\0'
TITLED = WAV.replace(b'data', TITLE + b'data', 1)
FRAGMENTED = dict(movflags='frag_keyframe+empty_moov+default_base_moof')
FORMATS = {
  'wav, size 0': lambda: patched(WAV, b'data', 4, ZERO),
  'wav, all sizes 0': lambda: patched(patched(WAV, b'data', 4, ZERO), b'RIFF', 4, ZERO),
  'wav, size of a first buffer': lambda: patched(
    WAV, b'data', 4, struct.pack('<I', 64)
  ),
  'wav to a pipe': lambda: patched(WAV, b'data', 4, b'\xff' * 4),
  'wav of sox to a pipe': lambda: patched(WAV, b'data', 4, b'\0\xf0\xff\x7f'),
  'wav, size 0, title in Latin-1': lambda: patched(TITLED, b'data', 4, ZERO),
  'mu-law': lambda: sound('WAV', 'ULAW', 8_000),
  'A-law': lambda: sound('WAV', 'ALAW', 8_000),
  'IMA ADPCM': lambda: sound('WAV', 'IMA_ADPCM', 8_000),
  'MS ADPCM': lambda: sound('WAV', 'MS_ADPCM', 8_000),
  'GSM': lambda: sound('WAV', 'GSM610', 8_000),
  'RF64': lambda: sound('RF64', 'PCM_16'),
  'RF64, size 0': lambda: patched(sound('RF64', 'PCM_16'), b'ds64', 8, bytes(24)),
  'W64': lambda: sound('W64', 'PCM_24'),
  'W64, size 0': lambda: patched(sound('W64', 'PCM_16'), b'data', 16, b'\x18'),
  'AIFF': lambda: sound('AIFF', 'PCM_16', 44_100),
  'AU to a pipe': lambda: patched(sound('AU', 'PCM_16'), b'.snd', 8, b'\xff' * 4),
  'SPHERE': lambda: sound('NIST', 'PCM_16', 8_000),
  'SPHERE, mu-law': lambda: sound('NIST', 'ULAW', 8_000),
  'CAF': lambda: sound('CAF', 'PCM_16'),
  'Vorbis without an end': lambda: endless(sound('OGG', 'VORBIS')),
  'Opus without an end': lambda: endless(sound('OGG', 'OPUS')),
  'mp3, two tags': lambda: id3(310) + id3(210) + MP3,
  'mp3, tag with a footer': lambda: id3(310, footer=True) + MP3,
  'mp3 behind zeros': lambda: bytes(300) + MP3,
  'mp3 without Xing': lambda: MP3[MP3.index(MP3[:2], 4) :],
  'webm': lambda: recording('webm', 'libopus', 48_000),
  'webm of a browser': lambda: recording('webm', 'libopus', 48_000, live='1'),
  'm4a': lambda: recording('ipod', 'aac', 44_100),
  'mp4 of a browser': lambda: recording('mp4', 'aac', 48_000, **FRAGMENTED),
  'Apple lossless': lambda: recording('ipod', 'alac', 44_100),
  'AAC': lambda: recording('adts', 'aac', 44_100),
  '3gp': lambda: recording('3gp', 'aac', 44_100),
}


@pytest.fixture(scope='module')
def files():
  return {name: make() for name, make in FORMATS.items()}


@pytest.mark.parametrize('name', FORMATS)
def test_formats_and_unfinished_headers(files, name):
  samples = read(files[name])
  assert len(samples) / 16_000 == pytest.approx(SECONDS, abs=0.1)
  spectrum = np.abs(np.fft.rfft(samples[16_000:32_000]))
  assert spectrum.argmax() == 440  # Hz, as `tone` has it
  # It gets louder, to 0.25: neither a header nor another part is decoded.
  assert np.abs(samples[-4_000:-2_000]).max() == pytest.approx(0.23, abs=0.03)


SUFFIXES = {
  '.3gp': '3gp',
  '.aac': 'AAC',
  '.aif': 'AIFF',
  '.aiff': 'AIFF',
  '.au': 'AU to a pipe',
  '.caf': 'CAF',
  '.m4a': 'm4a',
  '.mp3': 'mp3 without Xing',
  '.mp4': 'mp4 of a browser',
  '.oga': 'Vorbis without an end',
  '.opus': 'Opus without an end',
  '.rf64': 'RF64',
  '.sph': 'SPHERE',
  '.w64': 'W64',
  '.wav': 'mu-law',
  '.webm': 'webm',
  '.amr': lambda: b'#!AMR\n' + 155 * (b'\x3c' + bytes(31)),  # 12.2 kbit/s
  '.flac': lambda: sound('FLAC'),
  '.mka': lambda: recording('matroska', 'libopus', 48_000),
  '.ogg': lambda: sound('OGG', 'VORBIS'),
}


def test_folders_list_all_that_is_decoded(files, tmp_path):
  assert set(audio.SUFFIXES) == set(SUFFIXES)
  for suffix, kind in SUFFIXES.items():
    path = tmp_path / f'x{suffix.upper()}'
    path.write_bytes(files[kind] if isinstance(kind, str) else kind())
    path.with_suffix('.txt').write_text('hi')
    (found,) = open_corpus('folder', tmp_path)
    assert len(found.read(Limits())) / 16_000 == pytest.approx(SECONDS, abs=0.1)
    path.unlink()
  path.with_suffix('.doc').touch()
  assert not list(open_corpus('folder', tmp_path))


@pytest.mark.parametrize('name', FORMATS)
def test_parts_are_those_of_the_whole(files, name):
  # Opus of other encoders begins 6.5 ms later if it is not read from its start.
  start, length = 2.3, 0.5
  part = read(files[name], stretch=(start, length))
  assert len(part) == 8_000
  whole = read(files[name])[36_800:44_800]
  interior = slice(300, -300)
  assert np.abs(part - whole)[interior].max() < 0.01


@pytest.mark.parametrize(
  'name', ['RF64', 'W64', 'AIFF', 'SPHERE', 'mu-law', 'MS ADPCM', 'm4a', 'webm', 'CAF']
)
def test_truncated_files_are_refused(files, name):
  data = files[name][: int(0.6 * len(files[name]))]
  if name == 'CAF':  # FFmpeg says how long the file is, not how long it was meant to be
    assert len(read(data)) < 2 * 16_000
    return
  with pytest.raises(
    AudioError, match='audio: content is (truncated|damaged)'
  ) as error:
    read(data)
  assert '\n' not in str(error.value)


def test_a_header_without_samples_that_can_be_found():
  data = sound('AIFF', 'PCM_16')
  data = patched(data, b'SSND', 4, struct.pack('>I', 8))
  data = patched(data, b'COMM', 10, bytes(4))
  with pytest.raises(AudioError, match='never been finished; record it again'):
    read(data)


def test_without_pyav_the_error_says_what_to_do(files, monkeypatch):
  monkeypatch.setitem(sys.modules, 'av', None)
  assert len(read(WAV)) == SECONDS * 16_000
  for name in ('m4a', 'wav, size 0'):
    with pytest.raises(AudioError, match='pip install av; or convert it: ffmpeg -i'):
      read(files[name])


def test_a_part_of_a_long_recording_is_not_read_whole(tmp_path):
  path, seconds = tmp_path / 'long.wav', 100.0
  path.write_bytes(sound('WAV', seconds=1.0))
  with soundfile.SoundFile(path, 'r+') as file:
    file.seek(1_600_000)  # a hole, which takes no space on the disk
    file.write(tone(0.7)[:, 0])
  with pytest.raises(AudioError, match='size is over the limit of 1048576 bytes'):
    read(path, limits=Limits(encoded_bytes=MIB), stretch=(seconds, 0.5))
  tracemalloc.start()
  part = read(path, limits=Limits(encoded_bytes=8 * MIB), stretch=(seconds, 0.5))
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  np.testing.assert_allclose(part, tone(0.7)[:8_000, 0], atol=1e-4)
  assert peak < MIB


FUZZED = ('RF64', 'W64', 'AIFF', 'SPHERE', 'mp3, two tags', 'webm of a browser', 'm4a')
FUZZED += ('mp4 of a browser', '3gp', 'CAF', 'MS ADPCM', 'AAC', 'wav, size 0')


def mutate(data, draw):
  """Return a file with bytes changed, cut out and repeated."""
  content = bytearray(data)
  for _ in range(draw(st.integers(1, 6))):
    position = draw(st.integers(0, len(content) - 1) | st.integers(0, 300))
    kind = draw(st.sampled_from(['byte', 'number', 'cut', 'repeat']))
    if kind == 'byte':
      content[position : position + 1] = bytes([draw(st.integers(0, 255))])
    elif kind == 'number':
      content[position : position + 4] = draw(
        st.sampled_from([b'\xff' * 4, bytes(4), b'\x7f\xff\xff\xff', b'\0\0\0\x80'])
      )
    elif kind == 'cut':
      del content[position : position + draw(st.integers(1, 2_000))]
    else:
      content[position:position] = content[: draw(st.integers(1, 2_000))]
    content = content or bytearray(1)
  return bytes(content)


@settings(max_examples=25, deadline=5_000)
@given(st.data())
def test_damaged_files_raise_audio_error_or_decode(files, data):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  content = mutate(files[data.draw(st.sampled_from(FUZZED))], data.draw)
  stretch = data.draw(st.sampled_from([None, (2.3, 0.5)]))
  limits = Limits(seconds=20.0, decoded_bytes=8 * MIB)
  try:
    samples = read(content, limits=limits, stretch=stretch)
  except AudioError as error:
    assert '\n' not in str(error)
  else:
    assert np.isfinite(samples).all() and len(samples) <= 20 * audio.SAMPLE_RATE
  grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
  assert grown < 256 << 10  # KiB
