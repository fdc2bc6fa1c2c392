# SPDX-License-Identifier: Apache-2.0
import json
import pickle
import shutil
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
from data_pipeline.prepare import prepare

# TFDS triggers this warning of protobuf.
pytestmark = pytest.mark.filterwarnings('ignore:label.. is deprecated')
LIMITS = audio.Limits()


@pytest.fixture(scope='module')
def shared_dataset(shared_prepared, tmp_path_factory):
  folder = tmp_path_factory.mktemp('tfds') / 'speech/1.0.0'
  tfds_builder.build(shared_prepared, folder)
  return folder


@pytest.fixture
def dataset(shared_dataset, tmp_path):
  """The prepared corpus as a TFDS dataset, a copy for this test."""
  return shutil.copytree(shared_dataset, tmp_path / 'tfds/speech/1.0.0')


def read(path):
  utterances = list(open_corpus('tfds', path))
  good = {u.id: u for u in utterances if isinstance(u, Utterance)}
  return good, [u for u in utterances if isinstance(u, BadUtterance)]


def content(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_round_trip(prepared, dataset):
  originals = list(records.Dataset(prepared))
  good, bad = read(dataset)
  assert not bad and list(good) == [original['id'] for original in originals]
  for utterance, original in zip(good.values(), originals, strict=True):
    for field in ('id', 'text', 'speaker', 'lang', 'response'):
      assert getattr(utterance, field) == original[field]
    assert len(pickle.dumps(utterance)) < 1_000
    restored = from_json(json.loads(json.dumps(vars(utterance), default=str)))
    assert restored == utterance
    np.testing.assert_array_equal(restored.read(LIMITS), original['audio'])


def test_tfds_reads_the_dataset(prepared, dataset):
  source = tfds.data_source('speech', data_dir=dataset.parent.parent, split='train')
  originals = list(records.Dataset(prepared))
  assert len(source) == len(originals)
  for example, original in zip(source, originals, strict=True):
    assert example['text'].decode() == original['text']
    assert example['audio'].dtype == np.int16
    np.testing.assert_array_equal(example['audio'] / 32768, original['audio'])
  info = tfds.builder_from_directory(str(dataset)).info
  assert info.metadata['sample_rate'] == 16_000
  assert info.splits['train'].shard_lengths == [3, 3, 1]


@pytest.mark.full
def test_neither_tensorflow_nor_beam_is_imported(dataset, prepared, tmp_path):
  code = f"""
import sys, tensorflow_datasets as tfds
from data_pipeline import audio, tfds_builder
from data_pipeline.corpora import open_corpus
tfds_builder.build({str(prepared)!r}, {str(tmp_path / 'new')!r})
for utterance in open_corpus('tfds', {str(tmp_path / 'new')!r}):
  utterance.read(audio.Limits())
source = tfds.data_source('speech', data_dir={str(tmp_path / 'tfds')!r}, split='train')
print(len(source))
print(*(sys.modules.keys() & {{'tensorflow', 'apache_beam', 'torch'}}))
"""
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert done.stdout == '7\n\n'


def test_interrupted_build_gives_the_same_bytes(
  prepared, dataset, tmp_path, monkeypatch
):
  other = tmp_path / 'tfds2/speech/1.0.0'
  with monkeypatch.context() as patch:
    examples, calls = tfds_builder._serialize_examples, iter([0, 1])

    def interrupt_second_shard(*arguments):
      if next(calls) == 1:
        raise KeyboardInterrupt
      return examples(*arguments)

    patch.setattr(tfds_builder, '_serialize_examples', interrupt_second_shard)
    with pytest.raises(KeyboardInterrupt):
      tfds_builder.build(prepared, other)
  (first,) = other.glob('*.array_record-00000*')
  date = first.stat().st_mtime_ns
  tfds_builder.build(prepared, other)
  assert content(other) == content(dataset) and first.stat().st_mtime_ns == date


def test_several_splits(corpus, prepared, dataset, tmp_path):
  corpus.write_text(''.join(corpus.read_text().splitlines(keepends=True)[:2]))
  prepare('manifest', corpus, tmp_path / 'small')
  tfds_builder.build(tmp_path / 'small', dataset, 'test')
  assert list(read(dataset / 'test')[0]) == ['u0', 'u1']
  assert len(read(dataset / 'train')[0]) == 7
  for path in (dataset, dataset / 'dev'):
    with pytest.raises(ValueError, match='SPLIT: test, train'):
      read(path)
  with pytest.raises(ValueError, match='speech-train.array_record .*--output'):
    tfds_builder.build(tmp_path / 'small', dataset)


def write(folder, examples, rate=16_000, **features):
  """Write a dataset of one shard with other features than ours."""
  folder.mkdir()
  features = tfds.features.FeaturesDict(
    {'id': tfds.features.Text(), 'text': tfds.features.Text(), **features}
  )
  serializer = ExampleSerializer(features.get_serialized_info())
  encoded = (features.encode_example(example) for example in examples)
  serialized = map(serializer.serialize_example, encoded)
  records.write_shard(folder / 'any-train.array_record-00000-of-00001', serialized)
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
def test_encodings_of_the_samples(tmp_path, encoding):
  folder = write(tmp_path / 'd', [EXAMPLE], audio=tensor(encoding))
  samples = read(folder)[0]['a'].read(LIMITS)
  np.testing.assert_array_equal(samples * 32768, PCM)


@pytest.mark.parametrize('as_feature', [True, False])
def test_sample_rate_is_a_feature_or_metadata(tmp_path, as_feature):
  examples = [EXAMPLE | {'speaker': 7}]
  features = {'audio': tensor('bytes'), 'speaker': tfds.features.Scalar(np.int64)}
  if as_feature:
    examples = [examples[0] | {'sample_rate': 8_000}]
    features |= {'sample_rate': tfds.features.Scalar(np.int32)}
  folder = write(tmp_path / 'd', examples, 0 if as_feature else 8_000, **features)
  utterance = read(folder)[0]['a']
  assert utterance.speaker == '7'
  expected = soxr.resample(PCM.astype(np.float32) / 32768, 8_000, 16_000, 'HQ')
  np.testing.assert_array_equal(utterance.read(LIMITS), expected)


@pytest.mark.parametrize(
  'rate, features, problem',
  [
    (
      16_000,
      {'audio': tensor(dtype=np.float32)},
      'audio .*int16',
    ),
    (16_000, {'audio': tensor('bytes', shape=(None, 2))}, 'audio .*int16'),
    (16_000, {}, 'features.json: .*audio.*id, text'),
    (None, {'audio': tensor()}, 'metadata.json: .*sample_rate'),
    ('16k', {'audio': tensor()}, 'metadata.json: .*sample_rate'),
  ],
)
def test_unsupported_features_are_rejected(tmp_path, rate, features, problem):
  folder = write(tmp_path / 'd', [], rate, **features)
  with pytest.raises(ValueError, match=problem):
    read(folder)


def replace_text(path, old, new):
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new))


def test_audio_feature_of_tfds_is_rejected(dataset):
  path = dataset / 'features.json'
  replace_text(path, 'tensor_feature.Tensor', 'audio_feature.Audio')
  with pytest.raises(ValueError, match=r'features.Audio.*features.Tensor'):
    read(dataset)


def test_modules_in_features_json_are_not_imported(dataset, tmp_path, monkeypatch):
  (tmp_path / 'evil.py').write_text('raise SystemExit')
  monkeypatch.syspath_prepend(tmp_path)
  path = dataset / 'features.json'
  replace_text(path, 'tensorflow_datasets.core.features.text_feature', 'evil')
  assert len(read(dataset)[0]) == 7


@pytest.mark.parametrize(
  'file, old, new, problem',
  [
    ('dataset_info', '"3"', '"4"', r'00000-of-00003: .*\b3\b.*\b4\b'),
    ('dataset_info', '"array_record"', '"tfrecord"', "fileFormat .*'tfrecord'"),
    ('dataset_info', '{DATASET}', '../{DATASET}', 'filepathTemplate'),
    ('dataset_info', '"speech"', '"../speech"', 'outside'),
    ('dataset_info', '"speech"', '"other"', 'other-train.*-00000-of-00003'),
    (
      'dataset_info',
      '"shardLengths": [',
      '"shardLengths": [{},',
      'dataset_info.json: .*TypeError',
    ),
    ('dataset_info', '"splits": [', '"splits": [[],', 'dataset_info.json: .*TypeError'),
    ('dataset_info', '{', '[', 'dataset_info.json.*JSON'),
    ('features', 'featuresDict', 'sequence', 'features.json: .*FeaturesDict'),
    ('features', '"bytes"', '"rot13"', "audio .*'rot13'"),
    ('features', '{', '[' * 100_000, 'features.json.*JSON'),
    ('metadata', '{"sample_rate": 16000}', '[]', 'metadata.json.*JSON object'),
  ],
)
def test_damaged_metadata_is_rejected(dataset, file, old, new, problem):
  replace_text(dataset / f'{file}.json', old, new)
  with pytest.raises((ValueError, OSError), match=problem):
    read(dataset)


def replace_records(folder, *rows):
  records.write_shard(folder / 'any-train.array_record-00000-of-00001', rows)
  replace_text(folder / 'dataset_info.json', '"1"\n', f'"{len(rows)}"\n')


def test_bad_record_is_yielded_as_a_bad_utterance(tmp_path):
  folder = write(tmp_path / 'd', [EXAMPLE], audio=tensor('bytes'))
  path = folder / 'any-train.array_record-00000-of-00001'
  from tensorflow_datasets.proto import tf_example_pb2

  def example(**values):
    message = tf_example_pb2.Example()
    values = {'id': b'x', 'text': b'hi', 'audio': b'\0' * 2_000} | values
    for name, value in values.items():
      feature = message.features.feature[name]
      kind = feature.int64_list if isinstance(value, int) else feature.bytes_list
      kind.value.append(value)
    return message.SerializeToString()

  rows = [b'\xff' * 9, example(id=b''), example(text=b'\xff'), example()]
  rows += [example(id=b'odd', audio=b'123'), example(id=b'int', audio=5)]
  replace_records(folder, *rows)
  good, bad = read(folder)
  assert [utterance.reason for utterance in bad] == [
    f'{path} record 0: is not a tf.train.Example',
    f'{path} record 1: id is missing',
    f'{path} record 2: text is not UTF-8',
  ]
  assert list(good) == ['x', 'odd', 'int']
  for name, problem in (('odd', r'\b3 bytes'), ('int', 'as bytes')):
    with pytest.raises(audio.AudioError, match=f'record .: samples .*{problem}'):
      good[name].read(LIMITS)


def test_limits(tmp_path):
  silence = EXAMPLE | {'audio': np.zeros(10**6, np.int16)}
  folder = write(tmp_path / 'd', [silence], audio=tensor('zlib'))
  utterance = read(folder)[0]['a']
  for limits, problem in (
    (audio.Limits(decoded_bytes=10**6), r'decoded size .*\b1000000\b'),
    (audio.Limits(seconds=60.0), r'duration .*\b60 s'),
    (audio.Limits(min_seconds=70.0), r'duration .*\b62\.500 s.*\b70\b'),
    (audio.Limits(min_rate=22_050), r'sample rate .*\b16000 Hz'),
  ):
    with pytest.raises(audio.AudioError, match=problem):
      utterance.read(limits)
  utterance.audio_filepath.unlink()
  with pytest.raises(
    audio.AudioError, match=f'record 0: content .*{utterance.audio_filepath}'
  ):
    utterance.read(LIMITS)


@pytest.mark.full
def test_program(prepared, tmp_path, start_program):
  arguments = (f'--input={prepared}', f'--output={tmp_path / "out"}', '--split=test')
  done = start_program('data_pipeline.tfds_builder', *arguments)
  assert done.returncode == 0, done.stderr
  assert 'tfds_builder: 7 examples, split test, in' in done.stdout
  assert len(read(tmp_path / 'out')[0]) == 7


@pytest.mark.full
def test_program_with_an_invalid_split(prepared, tmp_path, run_program):
  arguments = (f'--input={prepared}', f'--output={tmp_path / "out"}', '--split=../x')
  done = run_program('data_pipeline.tfds_builder', *arguments)
  assert done.returncode == 1 and done.stderr.startswith('error: --split=../x ')
