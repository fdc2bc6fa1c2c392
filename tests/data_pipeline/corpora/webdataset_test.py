# SPDX-License-Identifier: Apache-2.0
"""Tars in which the members of an utterance have the same name up to the first dot."""

import gzip
import io
import json
import os
import tarfile

import numpy as np
import pytest

from data_pipeline import audio
from data_pipeline.corpora import BadUtterance, Utterance, open_corpus, webdataset


def write_tar(path, *members):
  """Write a tar of (name, content) in this order."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, 'w') as tar:
    for name, content in members:
      member = tarfile.TarInfo(name)
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))
  return path


def read(path, contained=False):
  found = list(open_corpus('webdataset', path, contained))
  good = [u for u in found if isinstance(u, Utterance)]
  return good, [u for u in found if isinstance(u, BadUtterance)]


@pytest.fixture
def sounds(write_audio, tmp_path):
  """The bytes of a tone in three formats."""
  suffixes = ('flac', 'wav', 'mp3')
  paths = [write_audio(tmp_path / f'raw/x.{s}', seconds=0.2) for s in suffixes]
  return [path.read_bytes() for path in paths]


def test_members_are_paired_by_their_names(sounds, tmp_path):
  flac, wav, mp3 = sounds
  line = {'sentence': 'drei', 'speaker_id': 7, 'language': 'de', 'offset': 9.5}
  path = write_tar(
    tmp_path / 'a-000.tar',
    ('__info__.json', b'{}'),
    ('./b/1.txt', '\ufeffeins\n zwei '.encode()),
    ('./b/1.FLAC', flac),
    ('2.wav', wav),
    ('2.json', json.dumps(line).encode()),
    ('2.npy', b'features'),
    ('3.mp3', mp3),
    ('3.txt', b'vier'),
    ('3.json', b'{"text": "from JSON", "speaker": "eva"}'),
    ('README', b''),
  )
  good, bad = read(path)
  assert not bad and [u.id for u in good] == ['b/1', '2', '3']
  assert [u.text for u in good] == ['eins zwei', 'drei', 'vier']
  assert [(u.speaker, u.lang) for u in good] == [
    (None, None),
    ('7', 'de'),
    ('eva', None),
  ]
  for utterance, content in zip(good, sounds, strict=True):
    assert utterance.stretch is None
    samples = utterance.read(audio.Limits())
    np.testing.assert_array_equal(samples, audio.read(content))


def test_ids_of_several_tars(sounds, tmp_path):
  members = ('1.wav', sounds[1]), ('1.txt', b'hi')
  write_tar(tmp_path / 'set/a/x.tar', *members, ('2.json', b''), *members)
  write_tar(tmp_path / 'set/b.tar', *members)
  good, bad = read(tmp_path / 'set')
  assert [u.id for u in good] == ['1', 'b/1']
  assert [u.id for u in bad] == ['2', '1']
  assert len(read(tmp_path / 'set/{b,a/x}.tar')[0]) == 2
  write_tar(tmp_path / 'else/c.tar', ('3.wav', sounds[1]), ('3.txt', b'hi'))
  (tmp_path / 'set/c.tar').symlink_to(tmp_path / 'else/c.tar')
  assert [u.id for u in read(tmp_path / 'set')[0]] == ['1', 'b/1', '3']
  with pytest.raises(ValueError, match='c.tar: is outside the folder'):
    read(tmp_path / 'set', contained=True)


BAD = {
  'twice': (
    [('x.wav', 1), ('x.txt', b'a'), ('x.wav', 1)],
    'member',
    'x.wav occurs twice',
  ),
  'text twice': ([('x.wav', 1), ('x.txt', b'a'), ('x.TXT', b'b')], 'member', 'twice'),
  'two formats': ([('x.wav', 1), ('x.flac', 0), ('x.txt', b'a')], 'audio', 'flac, wav'),
  'no audio': ([('x.5s.wav', 1), ('x.txt', b'a')], 'audio', 'there is none'),
  'no text': ([('x.wav', 1)], 'text', 'text is missing'),
  'other keys': ([('x.wav', 1), ('x.json', b'{"words": 1}')], 'text', 'is missing'),
  'a number': ([('x.wav', 1), ('x.json', b'{"text": 1}')], 'text', 'is 1, not a'),
  'not JSON': ([('x.wav', 1), ('x.json', b'[' * 400)], 'line', 'not JSON'),
  'Latin-1': ([('x.wav', 1), ('x.txt', b'\xfc')], 'text', 'x.txt is not UTF-8'),
  'long': ([('x.wav', 1), ('x.txt', b'a' * 999)], 'text', 'limit is 500'),
  'outside': ([('../x.wav', 1), ('../x.txt', b'a')], 'member', 'leads out of the tar'),
  'root': ([('/etc/x.wav', 1), ('/etc/x.txt', b'a')], 'member', 'leads out'),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_members_lose_only_their_utterance(sounds, tmp_path, monkeypatch, name):
  monkeypatch.setattr(webdataset, 'MAX_TEXT_BYTES', 500)
  members, field, problem = BAD[name]
  members = [(n, sounds[c] if isinstance(c, int) else c) for n, c in members]
  path = write_tar(
    tmp_path / 'x.tar', *members, ('y.wav', sounds[1]), ('y.txt', b'good')
  )
  (good,), (bad,) = read(path)
  assert good.text == 'good' and bad.field == field and problem in bad.reason
  assert bad.reason.startswith(f'{path}: ') and len(bad.reason) < 400


def test_audio_that_decodes_to_too_much_is_refused(write_audio, tmp_path):
  long = write_audio(tmp_path / 'x.flac', seconds=3.0).read_bytes()
  path = write_tar(tmp_path / 'x.tar', ('x.flac', long), ('x.txt', b'a'))
  ((good,), _) = read(path)
  with pytest.raises(audio.AudioError, match='decoded size'):
    good.read(audio.Limits(decoded_bytes=100_000))


def test_tars_that_cannot_be_used_are_named(sounds, tmp_path):
  path = write_tar(tmp_path / 'x.tar', ('x.wav', sounds[1]), ('x.txt', b'a'))
  (tmp_path / 'y.tar.gz').write_bytes(gzip.compress(path.read_bytes()))
  with pytest.raises(ValueError, match='y.tar.gz: is compressed'):
    read(tmp_path / 'y.tar.gz')
  os.truncate(path, 2_000)
  with pytest.raises(ValueError, match='x.tar: is truncated.*; fetch or write it'):
    read(path)
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match='empty: is no .tar file and no folder'):
    read(tmp_path / 'empty')
