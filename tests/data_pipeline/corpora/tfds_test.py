# SPDX-License-Identifier: Apache-2.0
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import soxr
import tensorflow_datasets as tfds
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from data_pipeline import audio, records, tfds_builder
from data_pipeline.corpora import BadUtterance, Utterance, open_corpus
from data_pipeline.corpora.utterance import from_json
from data_pipeline.prepare import Settings, prepare

# By TFDS, of the protobuf beneath it.
pytestmark = pytest.mark.filterwarnings('ignore:label.. is deprecated')
LIMITS = audio.Limits()


@pytest.fixture
def prepared(corpus, tmp_path):
  prepare('manifest', corpus, tmp_path / 'prepared', settings=Settings(shard_size=3))
  return tmp_path / 'prepared'


@pytest.fixture
def dataset(prepared, tmp_path):
  tfds_builder.build(prepared, tmp_path / 'tfds/speech/1.0.0')
  return tmp_path / 'tfds/speech/1.0.0'


def read(path):
  items = list(open_corpus('tfds', path))
  good = {item.id: item for item in items if isinstance(item, Utterance)}
  return good, [item for item in items if isinstance(item, BadUtterance)]


def content(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_there_and_back(prepared, dataset):
  want = list(records.Dataset(prepared))
  good, bad = read(dataset)
  assert not bad and list(good) == [utterance['id'] for utterance in want]
  for utterance, expected in zip(good.values(), want, strict=True):
    for field in ('id', 'text', 'speaker', 'lang', 'response'):
      assert getattr(utterance, field) == expected[field]
    assert len(pickle.dumps(utterance)) < 1_000
    restored = from_json(json.loads(json.dumps(vars(utterance), default=str)))
    assert restored == utterance
    np.testing.assert_array_equal(restored.read(LIMITS), expected['audio'])


def test_tfds_opens_what_was_built(prepared, dataset):
  source = tfds.data_source('speech', data_dir=dataset.parent.parent, split='train')
  want = list(records.Dataset(prepared))
  assert len(source) == len(want)
  for found, expected in zip(source, want, strict=True):
    assert found['text'].decode() == expected['text']
    assert found['audio'].dtype == np.int16
    np.testing.assert_array_equal(found['audio'] / 32768, expected['audio'])
  info = tfds.builder_from_directory(str(dataset)).info
  assert info.metadata['sample_rate'] == 16_000
  assert info.splits['train'].shard_lengths == [3, 3, 1]


def test_no_tensorflow_and_no_beam(dataset, prepared, tmp_path):
  code = f"""
import sys, tensorflow_datasets as tfds
from data_pipeline import audio, tfds_builder
from data_pipeline.corpora import open_corpus
tfds_builder.build({str(prepared)!r}, {str(tmp_path / 'new')!r})
for item in open_corpus('tfds', {str(tmp_path / 'new')!r}): item.read(audio.Limits())
source = tfds.data_source('speech', data_dir={str(tmp_path / 'tfds')!r}, split='train')
print(len(source))
print(*(sys.modules.keys() & {{'tensorflow', 'apache_beam', 'torch'}}))
"""
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert done.stdout == '7\n\n'


def test_the_same_bytes_every_time_and_after_an_interruption(
  prepared, dataset, tmp_path, monkeypatch
):
  other = tmp_path / 'tfds2/speech/1.0.0'
  with monkeypatch.context() as patch:
    examples, calls = tfds_builder._examples, iter([0, 1])

    def interrupted(*arguments):
      if next(calls) == 1:
        raise KeyboardInterrupt
      return examples(*arguments)

    patch.setattr(tfds_builder, '_examples', interrupted)
    with pytest.raises(KeyboardInterrupt):
      tfds_builder.build(prepared, other)
  (first,) = other.glob('*.array_record-00000*')
  made = first.stat().st_mtime_ns
  tfds_builder.build(prepared, other)
  assert content(other) == content(dataset) and first.stat().st_mtime_ns == made


def test_several_splits(corpus, prepared, dataset, tmp_path):
  corpus.write_text(''.join(corpus.read_text().splitlines(keepends=True)[:2]))
  prepare('manifest', corpus, tmp_path / 'small')
  tfds_builder.build(tmp_path / 'small', dataset, 'test')
  assert list(read(dataset / 'test')[0]) == ['u0', 'u1']
  assert len(read(dataset / 'train')[0]) == 7
  for path in (dataset, dataset / 'dev'):
    with pytest.raises(ValueError, match='name one of its splits, .*: test, train'):
      read(path)
  with pytest.raises(ValueError, match='speech-train.array_record is made from someth'):
    tfds_builder.build(tmp_path / 'small', dataset)


def write(folder, examples, rate=16_000, **features):
  """A dataset as others may have made it, one shard."""
  folder.mkdir()
  features = tfds.features.FeaturesDict(
    {'id': tfds.features.Text(), 'text': tfds.features.Text(), **features}
  )
  serializer = ExampleSerializer(features.get_serialized_info())
  made = (serializer.serialize_example(features.encode_example(e)) for e in examples)
  records.write_shard(folder / 'any-train.array_record-00000-of-00001', made)
  split = tfds.core.SplitInfo(name='train', shard_lengths=[len(examples)], num_bytes=1)
  tfds.folder_dataset.write_metadata(
    data_dir=str(folder),
    features=features,
    split_infos=[split],
    check_data=False,
    metadata=tfds.core.MetadataDict({'sample_rate': rate} if rate else {}),
  )
  return folder


def tensor(encoding='none', dtype=np.int16, shape=(None,)):
  return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=encoding)


PCM = np.arange(-4_000, 4_000, dtype=np.int16)
EXAMPLE = {'id': 'a', 'text': 'hi', 'audio': PCM}


@pytest.mark.parametrize('encoding', ['none', 'bytes', 'zlib'])
def test_every_encoding_of_the_samples(tmp_path, encoding):
  folder = write(tmp_path / 'd', [EXAMPLE], audio=tensor(encoding))
  sound = read(folder)[0]['a'].read(LIMITS)
  np.testing.assert_array_equal(sound * 32768, PCM)


@pytest.mark.parametrize('as_feature', [True, False])
def test_the_rate_is_a_feature_or_metadata(tmp_path, as_feature):
  examples = [EXAMPLE | {'speaker': 7}]
  features = {'audio': tensor('bytes'), 'speaker': tfds.features.Scalar(np.int64)}
  if as_feature:
    examples = [examples[0] | {'sample_rate': 8_000}]
    features |= {'sample_rate': tfds.features.Scalar(np.int32)}
  folder = write(tmp_path / 'd', examples, 0 if as_feature else 8_000, **features)
  utterance = read(folder)[0]['a']
  assert utterance.speaker == '7'
  want = soxr.resample(PCM.astype(np.float32) / 32768, 8_000, 16_000, 'HQ')
  np.testing.assert_array_equal(utterance.read(LIMITS), want)


@pytest.mark.parametrize(
  'rate, features, problem',
  [
    (
      16_000,
      {'audio': tensor(dtype=np.float32)},
      'not a one-dimensional Tensor',
    ),
    (16_000, {'audio': tensor('bytes', shape=(None, 2))}, 'not a one-dimensional Tens'),
    (16_000, {}, 'features.json: has no feature audio, only id, text'),
    (None, {'audio': tensor()}, 'metadata.json: states no sample_rate'),
    ('16k', {'audio': tensor()}, 'metadata.json: states no sample_rate'),
  ],
)
def test_features_that_are_no_speech(tmp_path, rate, features, problem):
  folder = write(tmp_path / 'd', [], rate, **features)
  with pytest.raises(ValueError, match=problem):
    read(folder)


def change(path, *pairs):
  text = path.read_text()
  for old, new in pairs:
    assert old in text
    text = text.replace(old, new)
  path.write_text(text)


def test_the_audio_feature_of_tfds(dataset):
  path = dataset / 'features.json'
  change(path, ('tensor_feature.Tensor', 'audio_feature.Audio'))
  with pytest.raises(ValueError, match=r'Audio, which only TensorFlow opens: build'):
    read(dataset)


def test_no_module_is_imported_by_name(dataset, tmp_path, monkeypatch):
  (tmp_path / 'evil.py').write_text('raise SystemExit')
  monkeypatch.syspath_prepend(tmp_path)
  path = dataset / 'features.json'
  change(path, ('tensorflow_datasets.core.features.text_feature', 'evil'))
  assert len(read(dataset)[0]) == 7


@pytest.mark.parametrize(
  'file, old, new, problem',
  [
    ('dataset_info', '"3"', '"4"', '00000-of-00003: has 3 records, 4 in dataset_info'),
    ('dataset_info', '"array_record"', '"tfrecord"', "fileFormat is 'tfrecord'; build"),
    ('dataset_info', '{DATASET}', '../{DATASET}', 'filepathTemplate is not'),
    ('dataset_info', '"speech"', '"../speech"', 'is outside of the folder'),
    ('dataset_info', '"speech"', '"other"', 'other-train.*-00000-of-00003: is missing'),
    ('dataset_info', '"shardLengths": [', '"shardLengths": [{},', 'cannot be read'),
    ('dataset_info', '"splits": [', '"splits": [[],', 'cannot be read'),
    ('dataset_info', '{', '[', 'is not JSON'),
    ('features', 'featuresDict', 'sequence', 'is not a FeaturesDict'),
    ('features', '"bytes"', '"rot13"', "audio has an encoding 'rot13'"),
    ('features', '{', '[' * 100_000, 'is not JSON'),
    ('metadata', '{"sample_rate": 16000}', '[]', 'is not a JSON object'),
  ],
)
def test_damaged_metadata(dataset, file, old, new, problem):
  change(dataset / f'{file}.json', (old, new))
  with pytest.raises((ValueError, OSError), match=problem):
    read(dataset)


def shard_of(folder, *rows):
  records.write_shard(folder / 'any-train.array_record-00000-of-00001', rows)
  change(folder / 'dataset_info.json', ('"1"\n', f'"{len(rows)}"\n'))


def test_a_bad_record_does_not_end_the_dataset(tmp_path):
  folder = write(tmp_path / 'd', [EXAMPLE], audio=tensor('bytes'))
  path = folder / 'any-train.array_record-00000-of-00001'
  from tensorflow_datasets.proto import tf_example_pb2

  def example(**values):
    made = tf_example_pb2.Example()
    values = {'id': b'x', 'text': b'hi', 'audio': b'\0' * 2_000} | values
    for name, value in values.items():
      feature = made.features.feature[name]
      kind = feature.int64_list if isinstance(value, int) else feature.bytes_list
      kind.value.append(value)
    return made.SerializeToString()

  rows = [b'\xff' * 9, example(id=b''), example(text=b'\xff'), example()]
  rows += [example(id=b'odd', audio=b'123'), example(id=b'int', audio=5)]
  shard_of(folder, *rows)
  good, bad = read(folder)
  assert [item.reason.removeprefix(f'{path} record ') for item in bad] == [
    '0: is not a tf.train.Example', '1: id is missing', '2: text is not UTF-8'
  ]  # fmt: skip
  assert list(good) == ['x', 'odd', 'int']
  for name, problem in (('odd', 'are 3 bytes'), ('int', 'are not stored as bytes')):
    with pytest.raises(audio.AudioError, match=f'record .: samples {problem}'):
      good[name].read(LIMITS)


def test_limits_hold(tmp_path):
  silence = EXAMPLE | {'audio': np.zeros(10**6, np.int16)}
  folder = write(tmp_path / 'd', [silence], audio=tensor('zlib'))
  utterance = read(folder)[0]['a']
  for limits, problem in (
    (audio.Limits(decoded_bytes=10**6), 'decoded size is over the limit of 1000000'),
    (audio.Limits(seconds=60.0), 'duration is over the limit of 60 s'),
    (audio.Limits(min_seconds=70.0), 'duration is 62.500 s, limit at least 70'),
    (audio.Limits(min_rate=22_050), 'sample rate is 16000 Hz'),
  ):
    with pytest.raises(audio.AudioError, match=problem):
      utterance.read(limits)
  utterance.audio_filepath.unlink()
  with pytest.raises(audio.AudioError, match='record 0: content cannot be read .*miss'):
    utterance.read(LIMITS)


def test_program(prepared, tmp_path):
  command = [sys.executable, '-m', 'data_pipeline.tfds_builder', f'--input={prepared}']
  env = os.environ | {'PYTHONPATH': os.getcwd()}
  for split, code, said in (
    ('test', 0, 'tfds_builder: 7 examples, split test, in'),
    ('../x', 1, 'error: --split=../x is not made of letters and digits'),
  ):
    command[4:] = [f'--output={tmp_path / "out"}', f'--split={split}']
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == code and said in done.stdout + done.stderr
  assert len(read(tmp_path / 'out')[0]) == 7
