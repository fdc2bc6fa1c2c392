# SPDX-License-Identifier: Apache-2.0
"""Data folders of Kaldi: tables whose first field is an id."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import audio
from data_pipeline.corpora import BadUtterance, Utterance, open_corpus


def write(folder, **tables):
  for name, content in tables.items():
    (folder / name.replace('wav_scp', 'wav.scp')).write_text(content)


def read(path, contained=False):
  found = list(open_corpus('kaldi', path, contained))
  good = {u.id: u for u in found if isinstance(u, Utterance)}
  return good, {u.id: u for u in found if isinstance(u, BadUtterance)}


@pytest.fixture
def folder(write_audio, tmp_path):
  """Recordings of 1 s and 2 s, one in the folder and one elsewhere."""
  write_audio(tmp_path / 'data/wav/one two.wav', seconds=1.0)
  path = write_audio(tmp_path / 'else/b.flac', seconds=2.0)
  write(tmp_path / 'data', wav_scp=f'rb {path}\nra wav/one two.wav\n')
  return tmp_path / 'data'


def test_whole_recordings(folder):
  write(folder, text='ra  EINS  ZWEI \nrb DREI\n', utt2spk='rb eva\n')
  good, bad = read(folder)
  assert not bad and list(good) == ['rb', 'ra']
  assert good['ra'] == Utterance('ra', folder / 'wav/one two.wav', 'EINS  ZWEI')
  assert (good['rb'].text, good['rb'].speaker) == ('DREI', 'eva')
  assert len(good['rb'].read(audio.Limits())) == 32_000


def test_segments(folder):
  write(
    folder,
    segments='u3 rb 1.25 1.75\nu1 ra 0 -1\nu2 rb 0.0 1.5\nu4 rb 1.5 3.0\n',
    text='u1 eins\nu2 zwei\nu3 drei\nu4 vier\n',
  )
  good, bad = read(folder)
  assert not bad and list(good) == ['u3', 'u1', 'u2', 'u4']
  assert good['u1'].stretch is None and good['u3'].stretch == (1.25, 0.5)
  whole = audio.read(good['u3'].audio_filepath)
  np.testing.assert_array_equal(good['u3'].read(audio.Limits()), whole[20_000:28_000])
  with pytest.raises(audio.AudioError, match='duration is 1.000 s too short'):
    good['u4'].read(audio.Limits())  # ends one second after its recording


def test_what_does_not_belong_together_is_counted(folder):
  lines = ['a ra 0 1', 'b rc 0 1', 'c ra 2 1', 'd ra 0 x', 'e ra 0', 'f ra 0 1 1']
  lines += ['g ra nan 1', 'h ra 0 1', 'a ra 0 1']
  write(
    folder,
    segments='\n'.join(lines),
    text=''.join(f'{id} words\n' for id in 'abcdefgi') + 'a again\n',
  )
  with (folder / 'text').open('ab') as file:
    file.write(b'j \xff\n')
  found = list(open_corpus('kaldi', folder))
  assert [u.id for u in found if isinstance(u, Utterance)] == ['a']
  bad = [u for u in found if isinstance(u, BadUtterance)]
  reasons = {u.id: f'{u.field}: {u.reason}' for u in bad}
  for id, field, problem in [
    ('b', 'wav.scp', "has no recording 'rc'"),
    ('c', 'segments', 'line 3: segments is from 2 s to 1 s'),
    ('d', 'segments', "has 'x', not seconds"),
    ('e', 'segments', 'has 3 fields'),
    ('f', 'segments', 'one file per channel'),
    ('g', 'segments', 'from nan s'),
    ('h', 'text', 'no line in text'),
    ('i', 'text', 'has a text, but no recording'),
    ('text:10', 'text', 'line 10: is not UTF-8'),
  ]:
    assert reasons[id].startswith(f'{field}: ') and problem in reasons[id]
  assert "'a' occurs more than once" in reasons['text:9']
  assert 'an earlier segment' in reasons['a'] and len(bad) == 11


@pytest.mark.parametrize(
  'entry, problem',
  [
    ('touch {root}/run; cat x.wav |', "has a command, 'touch .*not run"),
    ('| touch {root}/run', 'has a command'),
    ('-', "has '-', which is not a file"),
    ('wav.ark:17', "has 'wav.ark:17', which is not a file"),
    ('', 'is not a file'),
    ('../else/b.flac', 'is outside the folder'),
    ('a\0', 'is not a valid path'),
  ],
)
def test_what_is_not_a_file_is_refused_by_name(folder, tmp_path, entry, problem):
  entry = entry.format(root=tmp_path)
  write(folder, wav_scp=f'ra {entry}\nrb wav/one two.wav\n', text='ra x\nrb y\n')
  good, bad = read(folder)
  assert list(good) == ['rb'] and bad['ra'].field == 'wav.scp'
  assert re.search(problem, bad['ra'].reason)
  assert not (tmp_path / 'run').exists()


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=12), max_size=3), st.integers(0, 3))
def test_arbitrary_lines_do_not_raise(tmp_path_factory, lines, which):
  folder = tmp_path_factory.getbasetemp() / 'any'
  folder.mkdir(exist_ok=True)
  content = [b'ra a.wav', b'ra eins', b'u ra 0 1', b'u eva']
  names = ('wav.scp', 'text', 'segments', 'utt2spk')
  for number, name in enumerate(names):
    changed = lines if number == which else [content[number]]
    (folder / name).write_bytes(b'\n'.join(changed))
  try:
    read(folder)
  except ValueError as error:
    assert 'UTF-16' in str(error)


def test_contained_refuses_what_is_elsewhere(folder):
  write(folder, text='ra x\nrb y\n')
  good, bad = read(folder, contained=True)
  assert list(good) == ['ra'] and 'outside the folder' in bad['rb'].reason


def test_missing_tables_are_named(folder):
  with pytest.raises(FileNotFoundError, match='data/text: is missing; is this a Kaldi'):
    read(folder)
  with pytest.raises(NotADirectoryError, match='wav.scp: is not a folder'):
    read(folder / 'wav.scp')
