# SPDX-License-Identifier: Apache-2.0
"""Links, and what systems leave beside the files of users."""

import json
import os

import pytest

from data_pipeline.corpora import BadUtterance, open_corpus
from data_pipeline.corpora.walk import walk


def make_chapter(root, speaker, count=2):
  """Write the transcripts of a chapter of LibriSpeech; returns the speaker's folder."""
  folder = root / f'{speaker}/7'
  folder.mkdir(parents=True)
  lines = [f'{speaker}-7-{i:04d} HI {i}\n' for i in range(count)]
  (folder / f'{speaker}-7.trans.txt').write_text(''.join(lines))
  return folder.parent


def ids(kind, path, contained=False):
  """Return the ids of the good utterances, and the reasons of the others."""
  good, bad = [], []
  for each in open_corpus(kind, path, contained):
    bad.append(each.reason) if isinstance(each, BadUtterance) else good.append(each.id)
  return good, bad


def test_linked_speakers_and_splits_of_librispeech_are_read(tmp_path):
  make_chapter(tmp_path / 'half', 84)
  real = make_chapter(tmp_path / 'real', 85, count=1)
  (tmp_path / 'half/85').symlink_to(os.path.relpath(real, tmp_path / 'half'))
  expected = ['84-7-0000', '84-7-0001', '85-7-0000']
  assert ids('librispeech', tmp_path / 'half') == (expected, [])
  (tmp_path / 'farm').mkdir()
  (tmp_path / 'farm/dev-clean').symlink_to(tmp_path / 'half')
  assert ids('librispeech', tmp_path / 'farm') == (expected, [])
  with pytest.raises(ValueError, match='half/85: is a link to .*real/85, outside'):
    ids('librispeech', tmp_path / 'half', contained=True)


def test_contained_librispeech_refuses_linked_files(tmp_path):
  chapter = make_chapter(tmp_path / 'corpus', 84, count=3) / '7'
  (tmp_path / 'secret').write_text('86-7-0000 SECRET')
  (chapter / '86-7.trans.txt').symlink_to(tmp_path / 'secret')
  (chapter / '84-7-0001.flac').symlink_to(tmp_path / 'secret')
  good, bad = ids('librispeech', tmp_path / 'corpus', contained=True)
  assert good == ['84-7-0000', '84-7-0002']
  assert len(bad) == 2 and all('outside' in reason for reason in bad)
  assert len(ids('librispeech', tmp_path / 'corpus')[0]) == 4


def test_every_folder_is_read_once(tmp_path):
  root, other = tmp_path / 'corpus', tmp_path / 'other'
  for folder in (root / 'b', root / 'd', other / 'x', tmp_path / 'around'):
    folder.mkdir(parents=True)
    (folder / 'f').touch()
  links = {
    'a': root / 'b',  # read by its own path
    'c': other,
    'e': other / 'x',  # read as c/x
    'b/loop': root,
    'd/around': tmp_path,  # has the corpus in it
    'self': root / 'self',
    'missing': tmp_path / 'missing',
  }
  for name, target in links.items():
    (root / name).symlink_to(target)
  for i in range(9):  # all paths through them would be 9! many
    (other / f'y{i}').mkdir()
    for j in range(9):
      (other / f'y{i}/{j}').symlink_to(other / f'y{j}')
  found = [str(path.relative_to(root)) for path in walk(root)]
  assert found == ['b/f', 'c/x/f', 'd/f', 'missing', 'self']


def test_the_order_is_that_of_sorted_paths(tmp_path):
  for name in ('b/y/1', 'b/x', 'b.txt', 'b-1/z', 'a', 'b/y.txt', 'é', 'Z'):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
  expected = [path for path in sorted(tmp_path.rglob('*')) if path.is_file()]
  assert [*walk(tmp_path)] == expected


def test_what_systems_leave_is_passed_over(tmp_path):
  chapter = make_chapter(tmp_path / 'speech', 84) / '7'
  names = ('._84-7.trans.txt', '.DS_Store', '._u.flac', 'u.flac', 'u.txt', '._u.txt')
  for name in names:
    (chapter / name).write_text('hi')
  (tmp_path / 'speech/._x').mkdir()
  (tmp_path / 'speech/._x/v.flac').touch()
  assert ids('librispeech', tmp_path / 'speech') == (['84-7-0000', '84-7-0001'], [])
  assert ids('folder', tmp_path / 'speech') == (['84/7/u'], [])


@pytest.mark.parametrize('name', ['link/b.wav', 'near.wav', '~/b.wav', 'ABSOLUTE'])
def test_audio_of_a_manifest_may_be_anywhere(tmp_path, monkeypatch, name):
  folder = tmp_path / 'corpus'
  folder.mkdir()
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'b.wav').write_text('')
  (folder / 'link').symlink_to('..')
  (folder / 'near.wav').symlink_to('../b.wav')
  name = name.replace('ABSOLUTE', str(tmp_path / 'b.wav'))
  path = folder / 'm.jsonl'
  path.write_text(json.dumps({'audio_filepath': name, 'text': 'hi'}))
  (utterance,) = open_corpus('manifest', path)
  assert not isinstance(utterance, BadUtterance)
  assert utterance.audio_filepath == tmp_path / 'b.wav'
  absolute = str(tmp_path / 'b').lstrip('/')
  expected = {'link/b.wav': 'link/b', 'near.wav': 'near'}.get(name, absolute)
  assert utterance.id == expected
  _, (reason,) = ids('manifest', path, contained=True)
  assert 'audio_filepath' in reason and 'outside the folder' in reason
