# SPDX-License-Identifier: Apache-2.0
"""Several utterances in one recording, and tars with a manifest each."""

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
  items = list(open_corpus('nemo_tarred', path))
  good = {item.id: item for item in items if isinstance(item, Utterance)}
  return good, [item for item in items if isinstance(item, BadUtterance)]


@pytest.fixture(params=['wav', 'flac', 'ogg', 'mp3'])
def long_recording(request, record, tmp_path):
  """A tar with one recording of 3 s in it; its path and the whole of it."""
  path = record(tmp_path / f'raw/a/b.{request.param}', seconds=3.0, rate=22_050)
  with tarfile.open(tmp_path / 'audio_0.tar', 'w') as tar:
    tar.add(path, arcname=f'a_b.{request.param}')
  return path, audio.read(path)


def part(number, offset, duration, suffix):
  sub = f'-sub{number}' if number else ''
  name = f'a_b{sub}.{suffix}'
  line = {'audio_filepath': name, 'text': f'part {number}', 'shard_id': 0}
  return line | {'offset': offset, 'duration': duration}


def test_several_utterances_in_one_recording(long_recording, tmp_path):
  path, whole = long_recording
  times = [(0, 1.0), (1.0, 1.2), (2.2, 0.8)]
  lines = [part(i, *time, path.suffix[1:]) for i, time in enumerate(times)]
  write_lines(tmp_path / 'tarred_audio_manifest.json', lines)
  good, bad = read(tmp_path)
  assert not bad and list(good) == ['a_b', 'a_b-sub1', 'a_b-sub2']
  for utterance, (start, seconds) in zip(good.values(), times, strict=True):
    sound = pickle.loads(pickle.dumps(utterance)).read(LIMITS)
    assert len(sound) == round(seconds * 16_000)
    first = round(start * 16_000)
    # Where a stretch is cut the resampler sees silence beyond, so not its very ends.
    inner = slice(200, len(sound) - 200)
    np.testing.assert_allclose(
      sound[inner], whole[first : first + len(sound)][inner], atol=1e-5
    )


def test_a_stretch_goes_past_the_end_by_no_more_than_rounding(long_recording, tmp_path):
  path, _ = long_recording
  lines = [part(1, 2.0, 1.05, path.suffix[1:]), part(2, 2.0, 1.5, path.suffix[1:])]
  lines += [part(3, 9.0, 0.5, path.suffix[1:]), part(4, 1e8, 0.5, path.suffix[1:])]
  write_lines(tmp_path / 'tarred_audio_manifest.json', lines)
  first, *others = read(tmp_path)[0].values()
  assert len(first.read(LIMITS)) / 16_000 == pytest.approx(1.0, abs=0.06)
  for utterance in others:
    with pytest.raises(audio.AudioError, match='duration is ') as error:
      utterance.read(LIMITS)
    assert error.value.field == 'duration'


@pytest.mark.parametrize('suffix, starts_late', [('flac', True), ('ogg', False)])
def test_the_limit_is_of_what_is_decoded(record, tmp_path, suffix, starts_late):
  limits = audio.Limits(seconds=1.0)
  path = record(tmp_path / f'a.{suffix}', seconds=3.0)
  with pytest.raises(audio.AudioError, match='duration is over the limit of 1 s'):
    audio.read(path, limits=limits, stretch=(0.0, 1.5))
  if starts_late:
    assert len(audio.read(path, limits=limits, stretch=(2.0, 0.9))) == 14_400
  else:
    with pytest.raises(audio.AudioError, match='duration is over the limit of 1 s'):
      audio.read(path, limits=limits, stretch=(2.0, 0.9))


def test_a_part_without_its_times_is_not_the_whole(long_recording, tmp_path):
  path, _ = long_recording
  line = part(1, None, 1.0, path.suffix[1:])
  write_lines(tmp_path / 'tarred_audio_manifest.json', [line])
  _, (bad,) = read(tmp_path)
  assert bad.field == 'audio_filepath' and 'is not in audio_0.tar' in bad.reason


def test_a_plain_manifest_has_stretches_too(record, tmp_path):
  record(tmp_path / 'a.wav', seconds=2.0)
  lines = [
    {'audio_filepath': 'a.wav', 'text': 'hi', 'offset': offset, 'duration': 0.5}
    for offset in (0, 0.5, 1.5)
  ]
  write_lines(tmp_path / 'm.jsonl', lines)
  items = list(open_corpus('manifest', tmp_path / 'm.jsonl'))
  assert [item.id for item in items] == ['a', 'a-0.500', 'a-1.500']
  whole = audio.read(tmp_path / 'a.wav')
  for item, start in zip(items, (0, 8_000, 24_000), strict=True):
    np.testing.assert_array_equal(item.read(LIMITS), whole[start : start + 8_000])


@pytest.fixture
def sharded(corpus, tmp_path):
  """Two buckets of two tars each; every tar has a manifest of its own."""
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


def test_a_shard_knows_no_other_tar(sharded):
  lines = sharded / 'bucket1/sharded_manifests/manifest_0.json'
  line = {'audio_filepath': '11.flac', 'text': 'hi'}
  write_lines(lines, [line, line | {'shard_id': 1}])
  good, bad = read(lines)
  assert not good and [item.field for item in bad] == ['audio_filepath', 'shard_id']


def test_the_joint_manifest_goes_before_those_of_the_shards(sharded):
  folder = sharded / 'bucket1'
  line = {'audio_filepath': '11.flac', 'text': 'joint'}
  write_lines(folder / 'tarred_audio_manifest.json', [line])
  for path in (folder, folder / 'tarred_audio_manifest.json'):
    good, _ = read(path)
    assert [item.text for item in good.values()] == ['joint']


def test_a_tar_without_a_manifest(sharded):
  (sharded / 'bucket1/sharded_manifests/manifest_1.json').unlink()
  with pytest.raises(FileNotFoundError, match='audio_1.tar: has no manifest_1.json'):
    list(open_corpus('nemo_tarred', sharded / 'bucket1/audio_1.tar'))
