# SPDX-License-Identifier: Apache-2.0
import codecs
import json

import hypothesis
import hypothesis.strategies as st
import pytest

from data_pipeline.corpora import BadUtterance, open_corpus
from data_pipeline.corpora.text_files import decode, find_utf16, is_blank, read_lines

BLANK = '\u200b \t\n\0\x1b\ufeff\u00ad\u2060\u3164\ufe0f\u2028\u00a0'


@hypothesis.given(st.text(BLANK), st.sampled_from('a1.!?éß中한א\U0001f600'))
def test_a_text_is_blank_if_no_character_shows(blank, char):
  assert is_blank(blank)
  assert not is_blank(blank + char)


@hypothesis.given(st.text())
def test_utf8_is_decoded_with_or_without_a_bom(text):
  hypothesis.assume(not text.startswith('\ufeff') and '\0' not in text)
  assert decode(text.encode()) == decode(codecs.BOM_UTF8 + text.encode()) == text


@hypothesis.given(st.text(min_size=1), st.sampled_from(['utf-16-le', 'utf-16-be']))
def test_utf16_is_named(text, encoding):
  with pytest.raises(ValueError, match='is UTF-16, not UTF-8; convert it'):
    decode(('\ufeff' + text).encode(encoding))


@hypothesis.given(
  st.text(st.characters(max_codepoint=126, min_codepoint=9), min_size=2)
)
def test_utf16_without_a_bom_is_found(text):
  assert find_utf16(text.encode()) == ''
  for codec in ('utf-16le', 'utf-16be'):
    assert find_utf16(text.encode(codec)) == codec


def test_lines_have_no_bom(tmp_path):
  path = tmp_path / 'lines'
  path.write_bytes(codecs.BOM_UTF8 + b'a\r\nb\n' + codecs.BOM_UTF8)
  assert [*read_lines(path)] == [b'a\r\n', b'b\n', codecs.BOM_UTF8]


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be'])
def test_no_line_is_lost_to_an_encoding(tmp_path, encoding):
  chapter = tmp_path / '84/7/84-7.trans.txt'
  chapter.parent.mkdir(parents=True)
  chapter.write_bytes('84-7-0000 HI\n84-7-0001 HO\n'.encode(encoding))
  (tmp_path / 'u.flac').touch()
  (tmp_path / 'u.txt').write_bytes('hi'.encode(encoding))
  manifest, table = tmp_path / 'm.jsonl', tmp_path / 'de/train.tsv'
  line = json.dumps({'audio_filepath': 'u.flac', 'text': 'hi'})
  manifest.write_bytes(line.encode(encoding))
  table.parent.mkdir()
  table.write_bytes('path\tsentence\nu.mp3\thi\n'.encode(encoding))
  split = tmp_path / 'mls_german/dev'
  split.mkdir(parents=True)
  (split / 'transcripts.txt').write_bytes('1_2_3\thi\n'.encode(encoding))
  corpora = {
    'librispeech': tmp_path,
    'folder': tmp_path,
    'manifest': manifest,
    'common_voice': table,
    'mls': split,
  }
  for kind, path in corpora.items():
    if encoding == 'utf-8-sig':
      texts = [each.text.lower() for each in open_corpus(kind, path)]
      assert texts == ['hi', 'ho'][: len(texts)] and texts
    elif kind in ('librispeech', 'folder'):
      bad = [*open_corpus(kind, path)]
      assert len(bad) == (2 if kind == 'librispeech' else 1)
      for each in bad:
        assert isinstance(each, BadUtterance) and 'text is UTF-16' in each.reason
    else:
      with pytest.raises(ValueError, match='^/.*: is UTF-16, not UTF-8; convert it'):
        [*open_corpus(kind, path)]
