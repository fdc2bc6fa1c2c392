# SPDX-License-Identifier: Apache-2.0
"""Several utterances in one audio file, and tars with a manifest each."""

import json
import pickle
import tarfile

import numpy as np
import pytest

from data_pipeline import audio
from data_pipeline.corpora import BadUtterance, Utterance, open_corpus

LIMITS = audio.Limits()


def write_lines(path, lines):
  path.parent.mkdir(exist_ok=True)
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))


def read(path):
  utterances = list(open_corpus('nemo_tarred', path))
  good = {u.id: u for u in utterances if isinstance(u, Utterance)}
  return good, [u for u in utterances if isinstance(u, BadUtterance)]


@pytest.fixture(params=['wav', 'flac', 'ogg', 'mp3'])
def long_audio(request, write_audio, tmp_path):
  """A tar with one audio file of 3 s; returns the path and samples of that file."""
  path = write_audio(tmp_path / f'raw/a/b.{request.param}', seconds=3.0, rate=22_050)
  with tarfile.open(tmp_path / 'audio_0.tar', 'w') as tar:
    tar.add(path, arcname=f'a_b.{request.param}')
  return path, audio.read(path)


def part(number, offset, duration, suffix):
  sub = f'-sub{number}' if number else ''
  name = f'a_b{sub}.{suffix}'
  line = {'audio_filepath': name, 'text': f'part {number}', 'shard_id': 0}
  return line | {'offset': offset, 'duration': duration}


def test_several_utterances_in_one_audio_file(long_audio, tmp_path):
  path, whole = long_audio
  times = [(0, 1.0), (1.0, 1.2), (2.2, 0.8)]
  lines = [part(i, *time, path.suffix[1:]) for i, time in enumerate(times)]
  write_lines(tmp_path / 'tarred_audio_manifest.json', lines)
  good, bad = read(tmp_path)
  assert not bad and list(good) == ['a_b', 'a_b-sub1', 'a_b-sub2']
  for utterance, (start, seconds) in zip(good.values(), times, strict=True):
    samples = pickle.loads(pickle.dumps(utterance)).read(LIMITS)
    assert len(samples) == round(seconds * 16_000)
    first = round(start * 16_000)
    # At the ends of a stretch the resampler sees silence beyond.
    interior = slice(200, len(samples) - 200)
    expected = whole[first : first + len(samples)]
    np.testing.assert_allclose(samples[interior], expected[interior], atol=1e-5)


def test_stretch_may_exceed_the_file_by_rounding_only(long_audio, tmp_path):
  path, _ = long_audio
  lines = [part(1, 2.0, 1.05, path.suffix[1:]), part(2, 2.0, 1.5, path.suffix[1:])]
  lines += [part(3, 9.0, 0.5, path.suffix[1:]), part(4, 1e8, 0.5, path.suffix[1:])]
  write_lines(tmp_path / 'tarred_audio_manifest.json', lines)
  first, *others = read(tmp_path)[0].values()
  assert len(first.read(LIMITS)) / 16_000 == pytest.approx(1.0, abs=0.06)
  for utterance in others:
    with pytest.raises(audio.AudioError, match='duration') as error:
      utterance.read(LIMITS)
    assert error.value.field == 'duration'


@pytest.mark.parametrize('suffix', ['flac', 'ogg', 'mp3'])
def test_limit_applies_to_decoded_samples(write_audio, tmp_path, suffix):
  limits = audio.Limits(seconds=1.0)
  path = write_audio(tmp_path / f'a.{suffix}', seconds=5.0)
  with pytest.raises(audio.AudioError, match=r'duration .*\b1 s'):
    audio.read(path, limits=limits, stretch=(0.0, 1.5))
  for start in (0.5, 4.0):
    assert len(audio.read(path, limits=limits, stretch=(start, 0.9))) == 14_400
  with pytest.raises(audio.AudioError, match=r'duration .*\b1 s'):
    audio.read(path, limits=limits, stretch=(2.0, 1.1))


def test_subpart_without_an_offset_is_not_the_whole_file(long_audio, tmp_path):
  path, _ = long_audio
  line = part(1, None, 1.0, path.suffix[1:])
  write_lines(tmp_path / 'tarred_audio_manifest.json', [line])
  _, (bad,) = read(tmp_path)
  assert bad.field == 'audio_filepath' and 'audio_0.tar' in bad.reason


def test_stretches_in_a_plain_manifest(write_audio, tmp_path):
  write_audio(tmp_path / 'a.wav', seconds=2.0)
  lines = [
    {'audio_filepath': 'a.wav', 'text': 'hi', 'offset': offset, 'duration': 0.5}
    for offset in (0, 0.5, 1.5)
  ]
  write_lines(tmp_path / 'm.jsonl', lines)
  utterances = list(open_corpus('manifest', tmp_path / 'm.jsonl'))
  assert [u.id for u in utterances] == ['a', 'a-0.500', 'a-1.500']
  whole = audio.read(tmp_path / 'a.wav')
  for utterance, start in zip(utterances, (0, 8_000, 24_000), strict=True):
    expected = whole[start : start + 8_000]
    np.testing.assert_array_equal(utterance.read(LIMITS), expected)


@pytest.fixture
def sharded(corpus, tmp_path):
  """Two buckets of two tars each; every tar has its own manifest."""
  for bucket in (1, 2):
    folder = tmp_path / f'bucket{bucket}'
    folder.mkdir()
    for shard in (0, 1):
      name = f'{bucket}{shard}.flac'
      with tarfile.open(folder / f'audio_{shard}.tar', 'w') as tar:
        tar.add(corpus.parent / f'audio/{shard}.flac', arcname=name)
      line = {'audio_filepath': name, 'text': 'hi', 'shard_id': shard}
      write_lines(folder / f'sharded_manifests/manifest_{shard}.json', [line])
  return tmp_path


@pytest.mark.parametrize(
  'pattern, ids',
  [
    ('bucket1', ['10', '11']),
    ('bucket_OP_1..2_CL_', ['10', '11', '20', '21']),
    ('bucket{2..2}/audio__OP_0..1_CL_.tar', ['20', '21']),
    ('bucket2/audio__OP_1..1_CL_.tar', ['21']),
    ('bucket1/sharded_manifests/manifest__OP_0..1_CL_.json', ['10', '11']),
    ('bucket{1..2}/sharded_manifests/manifest_{1..1}.json', ['11', '21']),
  ],
)
def test_shards_by_pattern(sharded, corpus, pattern, ids):
  good, bad = read(sharded / pattern)
  assert not bad and list(good) == ids
  for name, utterance in good.items():
    plain = audio.read(corpus.parent / f'audio/{name[1]}.flac')
    np.testing.assert_array_equal(utterance.read(LIMITS), plain)


def test_manifest_of_a_shard_sees_only_its_tar(sharded):
  lines = sharded / 'bucket1/sharded_manifests/manifest_0.json'
  line = {'audio_filepath': '11.flac', 'text': 'hi'}
  write_lines(lines, [line, line | {'shard_id': 1}])
  good, bad = read(lines)
  assert not good and [u.field for u in bad] == ['audio_filepath', 'shard_id']


def test_joint_manifest_has_precedence(sharded):
  folder = sharded / 'bucket1'
  line = {'audio_filepath': '11.flac', 'text': 'joint'}
  write_lines(folder / 'tarred_audio_manifest.json', [line])
  for path in (folder, folder / 'tarred_audio_manifest.json'):
    good, _ = read(path)
    assert [u.text for u in good.values()] == ['joint']


def test_tar_without_a_manifest(sharded):
  (sharded / 'bucket1/sharded_manifests/manifest_1.json').unlink()
  with pytest.raises(FileNotFoundError, match='audio_1.tar: .*manifest_1.json'):
    list(open_corpus('nemo_tarred', sharded / 'bucket1/audio_1.tar'))
