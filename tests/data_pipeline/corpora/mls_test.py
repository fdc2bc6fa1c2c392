# SPDX-License-Identifier: Apache-2.0
import itertools

import pytest

from data_pipeline import audio
from data_pipeline.corpora import BadUtterance, Utterance, mls, open_corpus


@pytest.fixture
def publish(tmp_path, record):
  """publish(name, suffix='.flac'): the folder of a language with two splits."""

  def write(name, suffix='.flac'):
    for split, book in (('train', 10), ('dev', 20)):
      lines = []
      for segment in range(2):
        utterance = f'7_{book}_00000{segment}'
        path = tmp_path / name / split / f'audio/7/{book}/{utterance}{suffix}'
        kind = {'.opus': {'subtype': 'OPUS', 'format': 'OGG'}}.get(suffix, {})
        record(path, **kind)
        lines.append(f'{utterance}\tsatz {segment} für {split}\n')
      (tmp_path / name / split / 'transcripts.txt').write_text(''.join(lines))
    return tmp_path / name

  return write


def test_the_folder_and_one_split(publish):
  folder = publish('mls_german')
  items = list(open_corpus('mls', folder))
  assert len(items) == 4
  path = folder / 'dev/audio/7/20/7_20_000001.flac'
  assert items[1] == Utterance('7_20_000001', path, 'satz 1 für dev', '7', 'de')
  assert list(open_corpus('mls', folder / 'dev')) == items[:2]
  assert len(audio.read(path)) == 4_800


def test_the_opus_edition(publish):
  first, *_ = open_corpus('mls', publish('mls_polish_opus', '.opus') / 'train')
  assert isinstance(first, Utterance) and first.lang == 'pl'
  assert first.audio_filepath.suffix == '.opus'
  assert len(audio.read(first.audio_filepath)) == pytest.approx(4_800, abs=400)


def test_the_kind_is_that_of_the_first_recording_there_is(publish):
  folder = publish('mls_polish_opus', '.opus') / 'train'
  (folder / 'audio/7/10/7_10_000000.opus').unlink()
  suffixes = [item.audio_filepath.suffix for item in open_corpus('mls', folder)]
  assert suffixes == ['.flac', '.opus']


@pytest.mark.parametrize('name', ['mls_klingon', 'german', 'mls_german_copy', 'mls_'])
def test_a_name_that_says_no_language(publish, name):
  assert {item.lang for item in open_corpus('mls', publish(name))} == {None}


BAD_LINES = [
  (b'../../x_1_2\tevil', 'id'),
  (b'7_10\tshort', 'id'),
  ('٣_١_٢\tother digits'.encode(), 'id'),
  (b'7' * 5_000 + b'_1_2\tlong', 'id'),
  (b'7_10_3 no tab', 'id'),
  (b'7_10_\xff\tid', 'id'),
  (b'7_10_3\0\tid', 'id'),
  (b'7_10_3\tgr\xfc\xdfe', 'text'),
]


@pytest.mark.parametrize('line, field', BAD_LINES)
def test_a_bad_line_does_not_end_the_corpus(publish, line, field):
  path = publish('mls_german') / 'dev/transcripts.txt'
  path.write_bytes(line + b'\n\n' + path.read_bytes())
  bad, *good = open_corpus('mls', path.parent)
  assert isinstance(bad, BadUtterance) and len(good) == 2 and bad.field == field
  assert bad.reason.startswith(f'{path} line 1: {field} ') and len(bad.reason) < 400


def test_transcripts_are_streamed(publish):
  path = publish('mls_german') / 'dev/transcripts.txt'
  with path.open('w') as file:
    file.writelines(f'7_20_{i}\ttext\n' for i in range(20_000))
  items = mls.read(path.parent)
  assert len(list(itertools.islice(items, 2))) == 2
  with path.open('r+') as file:
    file.truncate(100_000)  # what is not read yet is not held either
  assert len(list(items)) < 10_000


def test_what_is_no_corpus(tmp_path):
  assert not list(open_corpus('mls', tmp_path))
  (tmp_path / 'file').touch()
  with pytest.raises(NotADirectoryError, match='file: is not a folder'):
    list(open_corpus('mls', tmp_path / 'file'))
