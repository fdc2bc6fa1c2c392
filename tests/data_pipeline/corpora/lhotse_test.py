# SPDX-License-Identifier: Apache-2.0
"""Lhotse's manifests and Shar folders, made by hand from their documentation."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import audio
from data_pipeline.corpora import BadUtterance, Utterance, open_corpus, text_files


def recording(id, source, seconds, kind='file', channels=(0,), **more):
  sources = [{'type': kind, 'channels': list(channels), 'source': str(source)}]
  numbers = {'sampling_rate': 16_000, 'num_samples': round(16_000 * seconds)}
  return {'id': id, 'sources': sources, **numbers, 'duration': seconds, **more}


def supervision(id, recording_id, start, duration, **more):
  times = {'start': start, 'duration': duration, 'channel': 0}
  return {'id': id, 'recording_id': recording_id, **times, 'text': f'T{id}', **more}


def cut(id, of, start, duration, *supervisions, **more):
  known = {'id': id, 'start': start, 'duration': duration, 'channel': 0}
  known |= {'supervisions': list(supervisions), 'recording': of}
  return {**known, 'type': 'MonoCut', **more}


def write(path, *lines):
  path.parent.mkdir(parents=True, exist_ok=True)
  content = ''.join(json.dumps(line) + '\n' for line in lines).encode()
  path.write_bytes(gzip.compress(content) if path.suffix == '.gz' else content)
  return path


def read(path, contained=False):
  found = list(open_corpus('lhotse', path, contained))
  good = {u.id: u for u in found if isinstance(u, Utterance)}
  return good, [u for u in found if isinstance(u, BadUtterance)]


@pytest.fixture
def files(write_audio, tmp_path):
  """Recordings of 1 s and 2 s, one in the folder and one elsewhere."""
  inside = write_audio(tmp_path / 'set/a.wav', seconds=1.0)
  outside = write_audio(tmp_path / 'else/b.flac', seconds=2.0)
  return recording('ra', 'a.wav', 1.0), recording('rb', outside, 2.0), inside, outside


@pytest.mark.parametrize('suffix', ['jsonl', 'jsonl.gz'])
def test_recordings_and_supervisions(files, tmp_path, suffix):
  first, second, inside, outside = files
  write(tmp_path / f'set/x_recordings_dev.{suffix}', second, first, first)
  write(
    tmp_path / f'set/x_supervisions_dev.{suffix}',
    supervision('u1', 'ra', 0.0, 1.0, language='de', speaker='eva'),
    supervision('u2', 'rb', 0.25, 1.5),
    supervision('u3', 'rc', 0.0, 1.0),
    supervision('u4', 'rb', 1.5, 9.0, text=None),
  )
  for path in ('set', f'set/x_supervisions_dev.{suffix}'):
    good, bad = read(tmp_path / path)
    assert good['u1'] == Utterance('u1', inside, 'Tu1', 'eva', 'de')
    assert good['u2'] == Utterance('u2', outside, 'Tu2', stretch=(0.25, 1.5))
    assert [u.field for u in bad] == ['id', 'recording_id', 'text']
    assert "line 3: recording_id 'rc' is not in x_recordings_dev" in bad[1].reason
  assert len(good['u2'].read(audio.Limits())) == 24_000
  (tmp_path / f'set/x_recordings_dev.{suffix}').unlink()
  with pytest.raises(FileNotFoundError, match='needs the recordings in x_recordings'):
    read(tmp_path / 'set')


def test_cuts(files, tmp_path):
  first, second, inside, outside = files
  path = write(
    tmp_path / 'set/cuts.jsonl.gz',
    cut('c1', first, 0, 1.0, supervision('u1', 'ra', 0, 1.0)),
    # Parts of a part, the last of which ends after it.
    cut(
      'c2',
      second,
      0.5,
      1.0,
      supervision('u2', 'rb', -0.25, 0.75),
      supervision('u3', 'rb', 0.5, 0.9),
    ),
  )
  good, bad = read(path)
  assert not bad and list(good) == ['c1', 'u2', 'u3']
  assert good['c1'] == Utterance('c1', inside, 'Tu1')
  assert [good[id].stretch for id in ('u2', 'u3')] == [(0.5, 0.5), (1.0, 0.5)]
  np.testing.assert_array_equal(
    good['u3'].read(audio.Limits()), audio.read(outside)[16_000:24_000]
  )
  assert [u.field for u in read(path, contained=True)[1]] == ['source'] * 2


def bad_cuts(first):
  one = supervision('u', 'ra', 0, 1.0)

  def of(**change):
    return cut('c', {**first, **change}, 0, 1.0, one)

  def source(**change):
    return of(sources=[{**first['sources'][0], **change}])

  command = 'touch run; cat a.wav'
  return {
    'a mix': (cut('c', first, 0, 1.0, one, type='MixedCut'), 'type', 'computed'),
    'silence': (cut('c', first, 0, 1.0), 'supervisions', 'missing'),
    'no text': (cut('c', first, 0, 1, {**one, 'text': None}), 'text', 'is missing'),
    'features': (cut('c', None, 0, 1.0, one), 'recording', 'is None'),
    'command': (source(type='command', source=command), 'source', 'not run'),
    'url': (source(type='url', source='http://x/a.wav'), 'source', "type 'url'"),
    'shar': (source(type='shar', source=''), 'source', "type 'shar'"),
    'outside': (source(source='../else/b.flac'), 'source', 'outside'),
    'channels': (source(channels=[0, 1]), 'channel', 'have the channels [[0, 1]]'),
    'speed': (of(transforms=[{'name': 'Speed'}]), 'transforms', "'Speed'"),
    'transforms': (of(transforms=7), 'transforms', 'have 7'),
    'sources': (of(sources={}), 'sources', 'are {}'),
    'start': (cut('c', first, -1, 1.0, one), 'duration', 'leaves nothing'),
    'beyond': (cut('c', first, 0, 1.0, {**one, 'start': 5}), 'duration', 'from 5 s'),
    'time': (cut('c', first, 0, '1', one), 'duration', "is '1'"),
    'infinite': (cut('c', first, 0, float('inf'), one), 'duration', 'is inf'),
    'huge': (cut('c', first, 10**400, 1.0, one), 'start', 'is 1000'),
    'id': (cut(7, first, 0, 1.0, one), 'id', 'is 7'),
    'list': ([], 'line', 'not a JSON object'),
    'supervision': (cut('c', first, 0, 1.0, 'hi'), 'supervisions', "have 'hi'"),
  }


@pytest.mark.parametrize('name', bad_cuts(recording('ra', 'a.wav', 1.0)))
def test_bad_cut_is_skipped_and_named(files, tmp_path, name):
  bad_cut, field, problem = bad_cuts(files[0])[name]
  fine = cut('fine', files[0], 0, 1.0, supervision('u', 'ra', 0, 1.0))
  path = write(tmp_path / 'set/cuts.jsonl.gz', bad_cut, fine)
  good, (bad,) = read(path)
  assert list(good) == ['fine'] and bad.field == field
  assert problem in bad.reason and len(bad.reason) < 400
  assert bad.reason.startswith(str(tmp_path / 'set'))
  assert not (tmp_path / 'set/run').exists()


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=2)
VALUES = st.recursive(
  VALUES,
  lambda inner: (
    st.lists(inner, max_size=2)
    | st.dictionaries(st.text(max_size=2), inner, max_size=1)
  ),
  max_leaves=3,
)
PLACES = [(), ('recording',), ('recording', 'sources', 0), ('supervisions', 0)]


@settings(max_examples=80)
@given(st.data())
def test_any_value_anywhere_in_a_cut_is_read_or_named(tmp_path_factory, data):
  whole = recording('ra', 'a.wav', 1.0, transforms=[{'name': 'Resample'}])
  entry = cut('c', whole, 0, 1.0, supervision('u', 'ra', 0, 1.0, speaker='x'))
  target = entry
  for key in data.draw(st.sampled_from(PLACES)):
    target = target[key]
  target[data.draw(st.sampled_from(sorted(target)))] = data.draw(VALUES)
  path = write(tmp_path_factory.getbasetemp() / 'any_cuts.jsonl', entry)
  good, bad = read(path)
  assert len(good) + len(bad) == 1


@pytest.fixture
def shar(write_audio, tmp_path):
  """Two shards of two cuts each; the third cut has no audio."""
  folder = tmp_path / 'shar'
  for shard in range(2):
    lines, members = [], []
    for i in (2 * shard, 2 * shard + 1):
      id, seconds = f'c.{i}-x', 0.2 + i / 10
      of = recording(f'r{i}', '', seconds, 'shar')
      lines.append(cut(id, of, 0, seconds, supervision(f'u{i}', f'r{i}', 0, seconds)))
      path = write_audio(tmp_path / f'raw/{i}.flac', seconds=seconds)
      members.append((f'{id}.flac', path.read_bytes()))
      members.append((f'{id}.json', json.dumps(of).encode()))
    if shard:
      members[:2] = [('c.2-x.nodata', b''), ('c.2-x.nometa', b'')]
    write(folder / f'cuts.00000{shard}.jsonl.gz', *lines)
    with tarfile.open(folder / f'recording.00000{shard}.tar', 'w') as tar:
      for name, content in members:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
  (folder / 'features.000000.tar').touch()
  return folder


def test_shar(shar, tmp_path):
  good, (bad,) = read(shar)
  assert list(good) == ['c.0-x', 'c.1-x', 'c.3-x']
  for id, utterance in good.items():
    expected = audio.read(tmp_path / f'raw/{id[2]}.flac')
    np.testing.assert_array_equal(utterance.read(audio.Limits()), expected)
    assert utterance.stretch is None and utterance.text == f'Tu{id[2]}'
  assert bad.field == 'recording' and "'c.2-x' is not in recording.000001" in bad.reason
  assert list(read(shar / 'cuts.000000.jsonl.gz')[0]) == ['c.0-x', 'c.1-x']
  (shar / 'recording.000000.tar').unlink()
  assert [u.field for u in read(shar)[1]] == ['source', 'source', 'recording']


def test_damaged_shar(shar):
  path = shar / 'recording.000001.tar'
  content = path.read_bytes()
  with tarfile.open(path, 'a') as tar:
    tar.addfile(tarfile.TarInfo('c.3-x.wav'))
  assert "'c.3-x' occurs twice in recording.000001.tar" in read(shar)[1][1].reason
  path.rename(shar.parent / 'else.tar')
  path.symlink_to(shar.parent / 'else.tar')
  with pytest.raises(ValueError, match='recording.000001.tar: is outside the folder'):
    read(shar, contained=True)
  path.write_bytes(content[:3_000])
  with pytest.raises(ValueError, match='else.tar: is truncated'):
    read(shar)


def test_compressed_manifests_are_bounded(files, tmp_path, monkeypatch):
  path = write(tmp_path / 'set/cuts.jsonl.gz', cut('c', files[0], 0, 1.0))
  content = path.read_bytes()
  path.write_bytes(content[:-9])
  with pytest.raises(ValueError, match='cuts.jsonl.gz: is damaged or truncated'):
    read(path)
  path.write_bytes(b'\x1f\x8b' + content)
  with pytest.raises(ValueError, match='cuts.jsonl.gz: is damaged'):
    read(path)
  monkeypatch.setattr(text_files, 'MAX_LINE_BYTES', 1_000)
  path.write_bytes(gzip.compress(bytes(5_000)))
  with pytest.raises(ValueError, match='has a line of 1000 bytes or more'):
    read(path)
  monkeypatch.setattr(text_files, 'MIN_LIMIT_BYTES', 2_000)
  path.write_bytes(gzip.compress(b'\n' * 1_000_000))
  with pytest.raises(ValueError, match=r'decompresses to more than \d+ bytes'):
    read(path)


def test_paths_that_are_not_of_lhotse(files, tmp_path):
  with pytest.raises(ValueError, match='has no cuts or supervisions'):
    read(tmp_path / 'set')
  for name in ('a_cuts', 'b_cuts'):
    write(tmp_path / f'set/{name}.jsonl')
  with pytest.raises(ValueError, match='choose one: --input=.*a_cuts.jsonl, .*b_cuts'):
    read(tmp_path / 'set')
  with pytest.raises(ValueError, match='a.wav: is no .jsonl'):
    read(tmp_path / 'set/a.wav')
