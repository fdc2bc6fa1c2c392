# SPDX-License-Identifier: Apache-2.0
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.corpora import open_corpus, patterns


@pytest.mark.parametrize(
  'pattern, names',
  [
    ('a/audio__OP_0..2_CL_.tar', ['a/audio_0.tar', 'a/audio_1.tar', 'a/audio_2.tar']),
    ('audio_{8..11}.tar', [f'audio_{i}.tar' for i in (8, 9, 10, 11)]),
    ('x{08..10}', ['x08', 'x09', 'x10']),
    ('b{1..2}/a{0..1}', ['b1/a0', 'b1/a1', 'b2/a0', 'b2/a1']),
    ('mls_{german,french}', ['mls_german', 'mls_french']),
    ('a{b}c', ['a{b}c']),
    ('plain', ['plain']),
    ('{3..3}{', ['3{']),
  ],
)
def test_expand(pattern, names):
  assert patterns.expand(pattern) == [Path(name) for name in names]


@pytest.mark.parametrize(
  'pattern, problem',
  [
    ('a_OP_0..999999999_CL_', r'a_OP_0..999999999_CL_: .*\b1000000000 paths'),
    ('{0..9999}' * 99, r'\b10000\b'),
    ('{1,2}' * 14, r'\b16384 paths.*\b10000\b'),
    ('a{7..0}', r'\{7\.\.0\}'),
  ],
)
def test_too_many_paths_are_rejected(pattern, problem):
  with pytest.raises(ValueError, match=problem):
    patterns.expand(pattern)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 150), min_size=1, max_size=3))
def test_number_of_paths_is_limited(lasts):
  pattern = '-'.join(f'{{0..{last}}}' for last in lasts)
  if (count := math.prod(last + 1 for last in lasts)) > patterns.MAX_PATHS:
    with pytest.raises(ValueError, match=rf'\b{count} paths'):
      patterns.expand(pattern)
  else:
    assert len(set(patterns.expand(pattern))) == count


def test_pattern_is_read_as_one_corpus(tmp_path):
  for name in 'ab':
    folder = tmp_path / f'part-{name}'
    folder.mkdir()
    for stem in ('same', name):
      (folder / f'{stem}.wav').touch()
      (folder / f'{stem}.txt').write_text(name)
  utterances = list(open_corpus('folder', tmp_path / 'part-{a,b}'))
  assert [u.id for u in utterances] == ['a', 'same', 'b', 'same']
  assert utterances[3].field == 'id' and "'same'" in utterances[3].reason
  with pytest.raises(FileNotFoundError, match='part-c'):
    open_corpus('folder', tmp_path / 'part-{a,c}')


def test_existing_path_is_not_a_pattern(tmp_path):
  folder = tmp_path / '{0..1}'
  folder.mkdir()
  (folder / 'x.wav').touch()
  (folder / 'x.txt').touch()
  (utterance,) = open_corpus('folder', folder)
  assert utterance.audio_filepath == folder / 'x.wav'
