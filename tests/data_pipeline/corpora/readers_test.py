# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.corpora import BadUtterance, Utterance, manifest, open_corpus


def read(kind, path, contained=False):
  """(utterances, bad utterances) of a corpus."""
  utterances = list(open_corpus(kind, path, contained))
  good = [u for u in utterances if isinstance(u, Utterance)]
  return good, [u for u in utterances if isinstance(u, BadUtterance)]


def test_manifest(corpus):
  good, bad = read('manifest', corpus)
  assert not bad and [utterance.id for utterance in good] == [f'u{i}' for i in range(7)]
  path = corpus.parent / 'audio/3.flac'
  assert good[3] == Utterance('u3', path, 'Grüße 3', 'anna', 'de', 'Antwort 3')


def test_manifest_with_required_keys_only(tmp_path):
  path = tmp_path / 'm.jsonl'
  lines = [
    {'audio_filepath': 'a/b.c.wav', 'text': 'hi'},
    {'audio_filepath': str(tmp_path / 'd.wav'), 'text': '', 'id': None, 'offset': 0},
    {'audio_filepath': '', 'text': 'no file'},
  ]
  path.write_text('\n\n'.join(map(json.dumps, lines)))
  (first, second, third), _ = read('manifest', path)
  assert first == Utterance('a/b.c', tmp_path / 'a/b.c.wav', 'hi')
  assert second == Utterance('d', tmp_path / 'd.wav', '')
  assert third == Utterance('.', tmp_path, 'no file')  # an error only when it is read


BAD_LINES = [
  ('{"audio_filepath": "a.wav", ', 'line', 'JSON'),
  ('[' * 100_000, 'line', 'JSON'),
  ('["a.wav", "hi"]', 'line', 'JSON object'),
  ('{"text": "hi"}', 'audio_filepath', 'is missing'),
  ('{"audio_filepath": "a.wav"}', 'text', 'is missing'),
  ('{"audio_filepath": "a.wav", "text": 7}', 'text', 'is 7'),
  ('{"audio_filepath": ["a.wav"], "text": "hi"}', 'audio_filepath', "['a.wav']"),
  ('{"audio_filepath": "a.wav", "text": "\\ud800"}', 'text', 'Unicode'),
  ('{"audio_filepath": "a.wav", "text": "hi", "id": 3}', 'id', 'is 3'),
  ('{"audio_filepath": "a.wav", "text": "hi", "duration": [3]}', 'duration', 'is [3]'),
  ('{"audio_filepath": "a.wav", "text": "hi", "duration": "3"}', 'duration', 'quotes'),
  ('{"audio_filepath": "a.wav", "text": "hi", "offset": "1.8"}', 'offset', "'1.8', a"),
  ('{"audio_filepath": "a.wav", "text": "hi", "duration": "x"}', 'duration', "is 'x'"),
  (
    f'{{"audio_filepath": "a.wav", "text": "hi", "duration": 1{"0" * 400}}}',
    'duration',
    'is 10000',
  ),
  ('{"audio_filepath": "a.wav", "text": "hi", "duration": -1}', 'duration', 'is -1'),
  ('{"audio_filepath": "a.wav", "text": "hi", "duration": NaN}', 'duration', 'is nan'),
  ('{"audio_filepath": "a.wav", "text": "hi", "offset": 1.5}', 'duration', 'missing'),
  ('{"audio_filepath": "a.wav", "text": "hi", "offset": -1.5}', 'offset', 'is -1.5'),
  ('{"audio_filepath": "a.wav", "text": "hi", "offset": NaN}', 'offset', 'is nan'),
  ('{"audio_filepath": "a.wav", "text": "hi", "offset": 1e400}', 'offset', 'is inf'),
  ('{"audio_filepath": "a.wav", "text": "hi", "offset": true}', 'offset', 'is True'),
  ('{"audio_filepath": "../a.wav", "text": "hi"}', 'audio_filepath', 'outside'),
  ('{"audio_filepath": "link/a.wav", "text": "hi"}', 'audio_filepath', 'outside'),
  ('{"audio_filepath": "loop", "text": "hi"}', 'audio_filepath', "'loop'"),
  ('{"audio_filepath": "a\\u0000", "text": "hi"}', 'audio_filepath', r"'a\x00'"),
]


@pytest.mark.parametrize('line, field, problem', BAD_LINES)
def test_bad_line_is_yielded_as_a_bad_utterance(tmp_path, line, field, problem):
  (tmp_path / 'corpus').mkdir()
  (tmp_path / 'corpus/link').symlink_to(tmp_path)
  (tmp_path / 'corpus/loop').symlink_to('loop')
  path = tmp_path / 'corpus/m.jsonl'
  path.write_text(line + '\n{"audio_filepath": "b.wav", "text": "ho"}\n')
  (good,), (bad,) = read('manifest', path, contained='link' in line)
  assert good.text == 'ho'
  assert (bad.id, bad.field) == ('m.jsonl:1', field)
  assert bad.reason.startswith(f'{path} line 1: {field} ') and problem in bad.reason
  assert len(bad.reason) < 400


def test_line_that_is_not_utf8(tmp_path):
  path = tmp_path / 'm.jsonl'
  path.write_bytes('{"audio_filepath": "a.wav", "text": "Grüße"}'.encode('latin-1'))
  _, (bad,) = read('manifest', path)
  assert bad.field == 'line'


def test_absolute_path_may_be_anywhere(tmp_path):
  (tmp_path / 'a').mkdir()
  path = tmp_path / 'a/m.jsonl'
  name = f'{tmp_path}/b/c.d.wav'
  lines = [
    {'audio_filepath': name, 'text': 'hi'},
    {'audio_filepath': name, 'text': 'ho', 'offset': 1.5, 'duration': 2},
  ]
  path.write_text('\n'.join(map(json.dumps, lines)))
  (first, second), _ = read('manifest', path)
  id = f'{tmp_path}/b/c.d'.lstrip('/')
  assert first == Utterance(id, tmp_path / 'b/c.d.wav', 'hi')
  assert second.id == f'{id}-1.500'


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_arbitrary_lines_do_not_raise(tmp_path_factory, line):
  path = tmp_path_factory.getbasetemp() / 'any.jsonl'
  path.write_bytes(line)
  try:
    for utterance in manifest.read(path):
      assert isinstance(utterance, Utterance | BadUtterance)
  except ValueError as error:
    assert 'UTF-16' in str(error)


def test_duplicate_ids_are_bad(tmp_path):
  path = tmp_path / 'm.jsonl'
  line = json.dumps({'audio_filepath': 'a.wav', 'text': 'hi'})
  path.write_text(f'{line}\n{line}\n')
  (good,), (bad,) = read('manifest', path)
  assert good.id == bad.id == 'a' and bad.field == 'id' and "id 'a'" in bad.reason


def test_files_that_differ_in_their_suffix_have_ids_of_their_own(tmp_path):
  names = ['a.flac', './a.mp3', 'b.wav', 'a.mp3', 'a.flac', 'b.ogg']
  entries = [{'audio_filepath': name, 'text': 'hi'} for name in names]
  entries[2]['id'] = 'b'
  part = {'text': 'hi', 'offset': 1.5, 'duration': 2}
  entries += [{'audio_filepath': name, **part} for name in ('a.flac', 'a.mp3')]
  path = tmp_path / 'm.jsonl'
  path.write_text('\n'.join(map(json.dumps, entries)))
  good, bad = read('manifest', path)
  ids = ['a', 'a.mp3', 'b', 'b.ogg', 'a-1.500', 'a.mp3-1.500']
  assert [utterance.id for utterance in good] == ids
  assert all(utterance.alternative_id is None for utterance in good)
  assert [utterance.id for utterance in bad] == ['a', 'a']  # the same files again
  for name in ('a.flac', 'a.mp3', 'a.txt'):
    (tmp_path / name).write_text('hi')
  assert [utterance.id for utterance in read('folder', tmp_path)[0]] == ['a', 'a.mp3']


def test_folder(tmp_path, write_audio):
  for name in ('b/x.flac', 'a.WAV', 'b/y.mp3', 'no_text.ogg', 'latin.wav', 'evil.wav'):
    write_audio(tmp_path / 'corpus' / name)
  root = tmp_path / 'corpus'
  (root / 'b/x.txt').write_text('zwei\n  Zeilen\n')
  (root / 'a.txt').write_text('eins')
  (root / 'b/y.txt').write_text('drei')
  (root / 'latin.txt').write_bytes('Grüße'.encode('latin-1'))
  (tmp_path / 'secret.txt').write_text('secret')
  (root / 'evil.txt').symlink_to(tmp_path / 'secret.txt')
  good, bad = read('folder', root, contained=True)
  assert [(u.id, u.text) for u in good] == [
    ('a', 'eins'),
    ('b/x', 'zwei Zeilen'),
    ('b/y', 'drei'),
  ]
  assert good[0].audio_filepath == root / 'a.WAV'
  reasons = {utterance.id: utterance.reason for utterance in bad}
  assert set(reasons) == {'no_text', 'latin', 'evil'}
  assert 'text is missing' in reasons['no_text']
  assert 'no_text.txt' in reasons['no_text']
  assert 'UTF-8' in reasons['latin'] and 'outside' in reasons['evil']


def test_librispeech(tmp_path):
  for split, name in (('dev-clean', '84-121123'), ('dev-clean', '84-121550')):
    chapter = tmp_path / split / '84' / name[3:]
    chapter.mkdir(parents=True)
    lines = [f'{name}-0000 GO DO YOU HEAR', f'{name}-0001 BUT IN LESS']
    (chapter / f'{name}.trans.txt').write_text('\n'.join(lines) + '\n')
  with (chapter / f'{name}.trans.txt').open('ab') as file:
    file.write(b'../../x EVIL\n84-121550-0002 \xff\n')
  good, bad = read('librispeech', tmp_path)
  assert len(good) == 4
  path = tmp_path / 'dev-clean/84/121123/84-121123-0001.flac'
  assert good[1] == Utterance('84-121123-0001', path, 'BUT IN LESS', '84', 'en')
  assert [utterance.field for utterance in bad] == ['id', 'text']
  assert bad[0].reason.startswith(f'{chapter / name}.trans.txt line 3: id ')
  assert len(read('librispeech', tmp_path / 'dev-clean')[0]) == 4


def test_paths_that_are_not_a_corpus(tmp_path):
  (tmp_path / 'file').touch()
  for kind in ('folder', 'librispeech'):
    with pytest.raises(NotADirectoryError, match='/file'):
      read(kind, tmp_path / 'file')
  with pytest.raises(ValueError, match=str(tmp_path)):
    read('manifest', tmp_path)
  with pytest.raises(FileNotFoundError, match='/none'):
    read('folder', tmp_path / 'none')
  with pytest.raises(ValueError, match="'tape' .*folder, huggingface"):
    read('tape', tmp_path)
