# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import audio
from data_pipeline.corpora import BadUtterance, Utterance, common_voice, open_corpus

OLD = ('client_id', 'path', 'sentence', 'up_votes', 'accent')
NEW = ('client_id', 'path', 'sentence_id', 'sentence', 'up_votes', 'locale', 'segment')


@pytest.fixture
def publish(tmp_path, write_audio):
  """publish(columns, *rows, table='train') writes a German release."""

  def write(columns, *rows, table='train'):
    folder = tmp_path / 'cv/de'
    for i in range(2):
      write_audio(folder / f'clips/common_voice_de_{i}.mp3', rate=32_000)
    lines = [columns, *([row.get(column, '') for column in columns] for row in rows)]
    text = ''.join('\t'.join(line) + '\n' for line in lines)
    (folder / f'{table}.tsv').write_text(text)
    return folder

  return write


def row(i, **other):
  path, speaker = f'common_voice_de_{i}.mp3', f'speaker{i}'
  return {'client_id': speaker, 'path': path, 'sentence': f'Satz "{i}'} | other


def test_new_release(publish):
  rows = [row(0, locale='de-AT', sentence_id='x'), row(1, locale='de')]
  folder = publish(NEW, *rows)
  first, second = open_corpus('common_voice', folder)
  path = folder / 'clips/common_voice_de_0.mp3'
  assert first == Utterance('common_voice_de_0', path, 'Satz "0', 'speaker0', 'de-AT')
  assert second.lang == 'de' and second.text == 'Satz "1'
  assert len(audio.read(path)) == pytest.approx(4_800, abs=600)


def test_old_release(publish):
  rows = [row(0, path='common_voice_de_0', client_id=''), row(1)]
  folder = publish(OLD, *rows, table='dev')
  first, second = open_corpus('common_voice', folder / 'dev.tsv')
  path = folder / 'clips/common_voice_de_0.mp3'
  assert first == Utterance('common_voice_de_0', path, 'Satz "0', None, 'de')
  assert second.audio_filepath == folder / 'clips/common_voice_de_1.mp3'


def test_byte_order_mark_and_carriage_returns(publish):
  path = publish(OLD, row(0, accent='x')) / 'train.tsv'
  path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes().replace(b'\n', b'\r\n'))
  (only,) = open_corpus('common_voice', path)
  assert isinstance(only, Utterance) and only.text == 'Satz "0'


BAD_LINES = [
  (b's\t../../secret\thi\t\t', 'path', 'outside'),
  (b's\t/etc/passwd\thi\t\t', 'path', 'outside'),
  (b's\tlink/a\thi\t\t', 'path', 'outside'),
  (b's\tloop.mp3\thi\t\t', 'path', "'loop.mp3'"),
  (b's\t\thi\t\t', 'path', 'is missing'),
  (b's\ta.mp3', 'line', '2 columns, the first has 5'),
  (b's\ta.mp3\ta\ttab\tin\tit', 'line', '6 columns'),
  (b's\ta.mp3\tgr\xfc\xdfe\t\t', 'line', 'UTF-8'),
  (b's\ta\0.mp3\thi\t\t', 'line', 'NUL'),
  (b's\ta.mp3\t' + b'x' * 200_000 + b'\t\t', 'line', 'field limit'),
  (b's\ta.mp3\thi\rho\t\t', 'line', 'row'),
]


@pytest.mark.parametrize('line, field, problem', BAD_LINES)
def test_bad_line_is_yielded_as_a_bad_utterance(publish, line, field, problem):
  folder = publish(OLD, row(0))
  (folder / 'clips/link').symlink_to('/etc')
  (folder / 'clips/loop.mp3').symlink_to('loop.mp3')
  path = folder / 'train.tsv'
  header, good = path.read_bytes().splitlines()
  path.write_bytes(b'\n'.join([header, line, b'', good]))
  bad, good = open_corpus('common_voice', folder, contained=b'link' in line)
  assert isinstance(good, Utterance) and isinstance(bad, BadUtterance)
  assert (bad.id, bad.field) == ('train.tsv:2', field)
  assert bad.reason.startswith(f'{path} line 2: {field} ') and problem in bad.reason
  assert len(bad.reason) < 400


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_arbitrary_lines_do_not_raise(tmp_path_factory, line):
  path = tmp_path_factory.getbasetemp() / 'any.tsv'
  path.write_bytes(b'path\tsentence\n' + line)
  for utterance in common_voice.read(path):
    assert isinstance(utterance, Utterance | BadUtterance)


@pytest.mark.parametrize(
  'header, problem',
  [
    (b'', "'path'"),
    (b'client_id\tpath\ttext\n', "'sentence'"),
    (b'path\tsentence\t\xff\n', 'UTF-8'),
  ],
)
def test_invalid_header_is_rejected(tmp_path, header, problem):
  (tmp_path / 'train.tsv').write_bytes(header)
  with pytest.raises(ValueError, match=f'train.tsv line 1: .*{problem}'):
    list(open_corpus('common_voice', tmp_path))


def test_path_that_is_not_a_corpus(tmp_path):
  (tmp_path / 'table.csv').touch()
  for path, name in ((tmp_path, 'train.tsv'), (tmp_path / 'table.csv', 'table.csv')):
    with pytest.raises(ValueError, match=f'{name}: .*tsv'):
      list(open_corpus('common_voice', path))
