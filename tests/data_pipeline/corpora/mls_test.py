# SPDX-License-Identifier: Apache-2.0
import itertools

import pytest

from data_pipeline import audio
from data_pipeline.corpora import BadUtterance, Utterance, mls, open_corpus


@pytest.fixture
def publish(tmp_path, write_audio):
  """publish(name, suffix='.flac') writes the folder of a language with two splits."""

  def write(name, suffix='.flac'):
    for split, book in (('train', 10), ('dev', 20)):
      lines = []
      for segment in range(2):
        utterance = f'7_{book}_00000{segment}'
        path = tmp_path / name / split / f'audio/7/{book}/{utterance}{suffix}'
        if suffix == '.opus':
          write_audio(path, 'OPUS', format='OGG')
        else:
          write_audio(path)
        lines.append(f'{utterance}\tsatz {segment} für {split}\n')
      (tmp_path / name / split / 'transcripts.txt').write_text(''.join(lines))
    return tmp_path / name

  return write


def test_all_splits_and_one_split(publish):
  folder = publish('mls_german')
  utterances = list(open_corpus('mls', folder))
  assert len(utterances) == 4
  path = folder / 'dev/audio/7/20/7_20_000001.flac'
  assert utterances[1] == Utterance('7_20_000001', path, 'satz 1 für dev', '7', 'de')
  assert list(open_corpus('mls', folder / 'dev')) == utterances[:2]
  assert len(audio.read(path)) == 4_800


def test_opus_edition(publish):
  first, *_ = open_corpus('mls', publish('mls_polish_opus', '.opus') / 'train')
  assert isinstance(first, Utterance) and first.lang == 'pl'
  assert first.audio_filepath.suffix == '.opus'
  assert len(audio.read(first.audio_filepath)) == pytest.approx(4_800, abs=400)


def test_suffix_is_that_of_the_first_existing_file(publish):
  folder = publish('mls_polish_opus', '.opus') / 'train'
  (folder / 'audio/7/10/7_10_000000.opus').unlink()
  suffixes = [u.audio_filepath.suffix for u in open_corpus('mls', folder)]
  assert suffixes == ['.flac', '.opus']


@pytest.mark.parametrize('name', ['mls_klingon', 'german', 'mls_german_copy', 'mls_'])
def test_folder_name_without_a_language(publish, name):
  assert {u.lang for u in open_corpus('mls', publish(name))} == {None}


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
def test_bad_line_is_yielded_as_a_bad_utterance(publish, line, field):
  path = publish('mls_german') / 'dev/transcripts.txt'
  path.write_bytes(line + b'\n\n' + path.read_bytes())
  bad, *good = open_corpus('mls', path.parent)
  assert isinstance(bad, BadUtterance) and len(good) == 2 and bad.field == field
  assert bad.reason.startswith(f'{path} line 1: {field} ') and len(bad.reason) < 400


def test_transcripts_are_streamed(publish):
  path = publish('mls_german') / 'dev/transcripts.txt'
  with path.open('w') as file:
    file.writelines(f'7_20_{i}\ttext\n' for i in range(20_000))
  utterances = mls.read(path.parent)
  assert len(list(itertools.islice(utterances, 2))) == 2
  with path.open('r+') as file:
    file.truncate(100_000)  # the rest has not been read yet
  assert len(list(utterances)) < 10_000


def test_path_that_is_not_a_corpus(tmp_path):
  assert not list(open_corpus('mls', tmp_path))
  (tmp_path / 'file').touch()
  with pytest.raises(NotADirectoryError, match='/file'):
    list(open_corpus('mls', tmp_path / 'file'))
