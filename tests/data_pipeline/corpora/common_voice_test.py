# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import audio
from data_pipeline.corpora import BadUtterance, Utterance, common_voice, open_corpus

OLD = ('client_id', 'path', 'sentence', 'up_votes', 'accent')
NEW = ('client_id', 'path', 'sentence_id', 'sentence', 'up_votes', 'locale', 'segment')


@pytest.fixture
def publish(tmp_path, record):
  """publish(columns, *rows, table='train'): German as a release with these columns."""

  def write(columns, *rows, table='train'):
    folder = tmp_path / 'cv/de'
    for i in range(2):
      record(folder / f'clips/common_voice_de_{i}.mp3', rate=32_000)
    lines = [columns, *([row.get(column, '') for column in columns] for row in rows)]
    text = ''.join('\t'.join(line) + '\n' for line in lines)
    (folder / f'{table}.tsv').write_text(text)
    return folder

  return write


def row(i, **other):
  path, speaker = f'common_voice_de_{i}.mp3', f'speaker{i}'
  return {'client_id': speaker, 'path': path, 'sentence': f'Satz "{i}'} | other


def test_a_new_release(publish):
  rows = [row(0, locale='de-AT', sentence_id='x'), row(1, locale='de')]
  folder = publish(NEW, *rows)
  first, second = open_corpus('common_voice', folder)
  path = folder / 'clips/common_voice_de_0.mp3'
  assert first == Utterance('common_voice_de_0', path, 'Satz "0', 'speaker0', 'de-AT')
  assert second.lang == 'de' and second.text == 'Satz "1'
  assert len(audio.read(path)) == pytest.approx(4_800, abs=600)


def test_an_old_release(publish):
  rows = [row(0, path='common_voice_de_0', client_id=''), row(1)]
  folder = publish(OLD, *rows, table='dev')
  first, second = open_corpus('common_voice', folder / 'dev.tsv')
  path = folder / 'clips/common_voice_de_0.mp3'
  assert first == Utterance('common_voice_de_0', path, 'Satz "0', None, 'de')
  assert second.audio_filepath == folder / 'clips/common_voice_de_1.mp3'


def test_a_table_with_a_byte_order_mark_and_carriage_returns(publish):
  path = publish(OLD, row(0, accent='x')) / 'train.tsv'
  path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes().replace(b'\n', b'\r\n'))
  (only,) = open_corpus('common_voice', path)
  assert isinstance(only, Utterance) and only.text == 'Satz "0'


BAD_LINES = [
  (b's\t../../secret\thi\t\t', 'path', 'outside'),
  (b's\t/etc/passwd\thi\t\t', 'path', 'outside'),
  (b's\tlink/a\thi\t\t', 'path', 'outside'),
  (b's\tloop.mp3\thi\t\t', 'path', 'is not a path'),
  (b's\t\thi\t\t', 'path', 'is missing'),
  (b's\ta.mp3', 'line', 'has 2 columns, the first has 5'),
  (b's\ta.mp3\ta\ttab\tin\tit', 'line', 'has 6 columns'),
  (b's\ta.mp3\tgr\xfc\xdfe\t\t', 'line', 'is not UTF-8'),
  (b's\ta\0.mp3\thi\t\t', 'line', 'has a NUL'),
  (b's\ta.mp3\t' + b'x' * 200_000 + b'\t\t', 'line', 'field limit'),
  (b's\ta.mp3\thi\rho\t\t', 'line', 'is no row of a table'),
]


@pytest.mark.parametrize('line, field, problem', BAD_LINES)
def test_a_bad_line_does_not_end_the_table(publish, line, field, problem):
  folder = publish(OLD, row(0))
  (folder / 'clips/link').symlink_to('/etc')
  (folder / 'clips/loop.mp3').symlink_to('loop.mp3')
  path = folder / 'train.tsv'
  header, good = path.read_bytes().splitlines()
  path.write_bytes(b'\n'.join([header, line, b'', good]))
  bad, good = open_corpus('common_voice', folder)
  assert isinstance(good, Utterance) and isinstance(bad, BadUtterance)
  assert (bad.id, bad.field) == ('train.tsv:2', field)
  assert bad.reason.startswith(f'{path} line 2: {field} ') and problem in bad.reason
  assert len(bad.reason) < 400


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_line_is_an_utterance_or_a_bad_one(tmp_path_factory, line):
  path = tmp_path_factory.getbasetemp() / 'any.tsv'
  path.write_bytes(b'path\tsentence\n' + line)
  for item in common_voice.read(path):
    assert isinstance(item, Utterance | BadUtterance)


@pytest.mark.parametrize(
  'header, problem',
  [
    (b'', "no column 'path'"),
    (b'client_id\tpath\ttext\n', "no column 'sentence'"),
    (b'path\tsentence\t\xff\n', 'not UTF-8'),
  ],
)
def test_a_table_without_its_header(tmp_path, header, problem):
  (tmp_path / 'train.tsv').write_bytes(header)
  with pytest.raises(ValueError, match=f'train.tsv line 1: .*{problem}'):
    list(open_corpus('common_voice', tmp_path))


def test_what_is_no_corpus(tmp_path):
  (tmp_path / 'table.csv').touch()
  for path, name in ((tmp_path, 'train.tsv'), (tmp_path / 'table.csv', 'table.csv')):
    with pytest.raises(ValueError, match=f'{name}: is not a table'):
      list(open_corpus('common_voice', path))
