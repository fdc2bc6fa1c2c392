# SPDX-License-Identifier: Apache-2.0
import json
import pickle

import hypothesis
import numpy as np
import pytest
import soundfile
from hypothesis import strategies as st

from data_pipeline import records
from data_pipeline.prepare import Settings, prepare
from data_pipeline.records import Dataset, RecordError, Shards, shard_name, write_shard


@pytest.fixture
def shards(tmp_path):
  """Three shards of 5, 0 and 3 records of different lengths."""
  for shard, names in enumerate(['abcde', '', 'fgh']):
    content = [name.encode() * (1_000 + 7 * i) for i, name in enumerate(names)]
    assert write_shard(tmp_path / shard_name('x', shard, 3), content) == len(names)
  return tmp_path


def test_random_access(shards):
  opened = Shards(shards, 'x')
  assert len(opened) == 8
  assert ''.join(chr(record[0]) for record in opened) == 'abcdefgh'
  assert len(opened[4]) == 1_028
  many = opened.__getitems__(np.array([7, 0, 7, 4]))
  assert [record[:1] for record in many] == [b'h', b'a', b'h', b'e']
  for index in (8, -1):
    with pytest.raises(IndexError, match=rf'record {index} .*\b8\b'):
      opened[index]


def test_shards_can_be_pickled(shards):
  assert pickle.loads(pickle.dumps(Shards(shards, 'x')))[5][:1] == b'f'


def test_missing_and_unexpected_shards(shards):
  with pytest.raises(FileNotFoundError, match='y-'):
    Shards(shards, 'y')
  (shards / shard_name('x', 1, 3)).unlink()
  with pytest.raises(RecordError, match='x-00001-of-00003.array_record: is missing'):
    Shards(shards, 'x')
  write_shard(shards / shard_name('x', 1, 3), [])
  write_shard(shards / shard_name('x', 0, 4), [])
  with pytest.raises(RecordError, match=r'00000-of-00004.array_record: .*\b3\b'):
    Shards(shards, 'x')


def test_truncated_shard(shards):
  path = shards / shard_name('x', 0, 3)
  path.write_bytes(path.read_bytes()[:50_000])
  with pytest.raises(RecordError, match='x-00000-of-00003'):
    Shards(shards, 'x')


def test_interrupted_write_keeps_the_old_shard(tmp_path):
  path = tmp_path / shard_name('x', 0, 1)
  write_shard(path, [b'old'])

  def interrupted():
    yield b'new'
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    write_shard(path, interrupted())
  assert list(Shards(tmp_path, 'x')) == [b'old']
  with pytest.raises(OSError, match='none/x'):
    write_shard(tmp_path / 'none' / 'x', [])


def test_dataset(prepared):
  data = pickle.loads(pickle.dumps(Dataset(prepared)))
  assert len(data) == 7 and data.ids[6] == 'u6' and data.texts[6] == 'Grüße 6'
  np.testing.assert_allclose(data.seconds, 0.1 + 0.05 * np.arange(7))
  last, first = data.__getitems__([6, 0])
  audio = last.pop('audio')
  assert last == {
    'id': 'u6',
    'text': 'Grüße 6',
    'speaker': 'anna',
    'lang': 'de',
    'response': 'Antwort 6',
  }
  assert audio.dtype == np.float32 and audio.shape == (6_400,)
  assert first['audio'].shape == (1_600,)


def test_flipped_bit_is_located(prepared):
  path = prepared / shard_name('data', 1, 3)
  content = bytearray(path.read_bytes())
  # In the audio of the second record of the shard, index 4 of the dataset.
  content[content.index(b'"u4"') + 1_000] ^= 1
  path.write_bytes(content)
  data = Dataset(prepared)
  assert data[3]['id'] == 'u3' and data[5]['id'] == 'u5'
  for indices in ([4], [0, 3, 4, 5]):
    with pytest.raises(
      RecordError, match='data-00001-of-00003.array_record: record 1:'
    ):
      data.__getitems__(indices)


def test_inconsistent_folder(prepared):
  with pytest.raises(FileNotFoundError, match='progress/dataset.json'):
    Dataset(prepared / 'progress')
  index = prepared / 'index.jsonl'
  lines = index.read_text().splitlines(keepends=True)
  index.write_text(''.join(lines[:-1]))
  with pytest.raises(RecordError, match='7 records, 6 lines.*7 examples'):
    Dataset(prepared)
  index.write_text(''.join(lines[::-1]))
  with pytest.raises(RecordError, match="record 0: id .*'u0'.*'u6'"):
    Dataset(prepared)[0]
  index.write_text('{')
  with pytest.raises(RecordError, match='index.jsonl'):
    Dataset(prepared)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'schema_version': 2}, r'schema_version is 2\b.*\b1\b'),
    ({'examples': 'many'}, "dataset.json: .*'many'"),
  ],
)
def test_invalid_dataset_json(prepared, change, message):
  path = prepared / 'dataset.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(RecordError, match=message):
    Dataset(prepared)


@pytest.mark.parametrize('encoding', records.ENCODINGS)
def test_16_bit_samples_are_exact_and_larger_ones_clipped(encoding):
  def round_trip(samples):
    utterance = dict.fromkeys(records.UTTERANCE_FIELDS)
    samples = np.asarray(samples, np.float32)
    _, arrays = records.unpack(records.pack_utterance(utterance, samples, encoding))
    return records._unpack_audio(arrays, len(samples) / 16_000) * 32_768

  pcm = np.array([-32_768, -1, 0, 1, 32_767] * 1_000, np.float32)
  np.testing.assert_array_equal(round_trip(pcm / 32_768), pcm)
  assert round_trip([1.5, -1.5]).tolist() == [32_767, -32_768]


@pytest.fixture(scope='module')
def flac():
  """3000 samples of noise, and the FLAC file of a record with them."""
  samples = np.random.default_rng(0).uniform(-1, 1, 3_000).astype(np.float32)
  samples = np.round(samples * 32_767) / np.float32(32_768)
  record = records.pack_utterance(dict.fromkeys(records.UTTERANCE_FIELDS), samples)
  return samples, records.unpack(record)[1]['flac']


@hypothesis.given(st.integers(0, 2**20), st.integers(0, 7))
@hypothesis.example(19, 1)  # 16 032 Hz
def test_flipped_bit_of_flac_is_detected_or_harmless(flac, offset, bit):
  samples, intact = flac
  damaged = intact.copy()
  damaged[offset % len(damaged)] ^= 1 << bit
  try:
    decoded = records._unpack_audio({'flac': damaged}, len(samples) / 16_000)
  except ValueError:
    return
  np.testing.assert_array_equal(decoded, samples)


def test_decoding_stops_at_the_length_in_the_index(tmp_path, monkeypatch):
  path, rate = tmp_path / 'bomb.flac', 16_000
  soundfile.write(path, np.zeros(3_000 * rate, np.int16), rate)  # 96 MB
  bomb = bytearray(path.read_bytes())
  assert len(bomb) < 1 << 19
  decoded = []
  read = soundfile.SoundFile.read

  def count_and_read(self, *args, **options):
    block = read(self, *args, **options)
    decoded.append(len(block))
    return block

  monkeypatch.setattr(soundfile.SoundFile, 'read', count_and_read)
  # The number of samples in the header: correct, unknown, too large.
  for stated in (3_000 * rate, 0, 2**32 - 1):
    bomb[22:26] = stated.to_bytes(4, 'big')
    decoded.clear()
    with pytest.raises(ValueError, match=r'duration .*\b1.001 s'):
      records._unpack_audio({'flac': np.frombuffer(bomb, np.uint8)}, 1.0)
    assert sum(decoded) <= 1 << 18


def test_record_errors_name_shard_and_record(prepared):
  index = prepared / 'index.jsonl'
  index.write_text(index.read_text().replace('"seconds": 0.15', '"seconds": 0.16'))
  data = Dataset(prepared)
  assert data[0]['id'] == 'u0'
  location = 'data-00000-of-00003.array_record: record 1: audio'
  with pytest.raises(RecordError, match=rf'{location} .*0\.15 s.*0\.16 s'):
    data[1]
  index.write_text(index.read_text().replace('"seconds": 0.16', '"seconds": 0.14'))
  with pytest.raises(RecordError, match=rf'{location}: duration .*0\.141 s'):
    Dataset(prepared)[1]
  name = shard_name('data', 0, 3)
  contents = [
    records.pack({'id': 'u0'}, {}),
    records.pack({'id': 'u1'}, {'audio': np.zeros(2_400, np.float64)}),
    records.pack({'id': 'u2'}, {'flac': np.zeros(2_400, np.uint8)}),
  ]
  write_shard(prepared / name, contents)
  no_audio = '`flac`.*`audio`'
  for i, problem in enumerate([no_audio, no_audio, 'audio: content .*unknown format']):
    with pytest.raises(RecordError, match=f'{name}: record {i}: .*{problem}'):
      Dataset(prepared)[i]


def test_both_encodings_hold_the_same_audio(corpus, tmp_path):
  for encoding in records.ENCODINGS:
    settings = Settings(shard_size=3, encoding=encoding)
    info = prepare('manifest', corpus, tmp_path / encoding, settings=settings)
    assert info['encoding'] == encoding
  flac, int16 = (Dataset(tmp_path / encoding) for encoding in records.ENCODINGS)
  for one, other in zip(flac, int16, strict=True):
    np.testing.assert_array_equal(one.pop('audio'), other.pop('audio'))
    assert one == other
