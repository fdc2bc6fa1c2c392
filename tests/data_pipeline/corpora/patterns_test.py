# SPDX-License-Identifier: Apache-2.0
import math
from pathlib import Path

import pytest
from hypothesis import given
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
def test_what_a_pattern_stands_for(pattern, names):
  assert patterns.expand(pattern) == [Path(name) for name in names]


@pytest.mark.parametrize(
  'pattern, problem',
  [
    ('a_OP_0..999999999_CL_', 'a_OP_0..999999999_CL_: stands for 1000000000 paths'),
    ('{0..9999}' * 99, 'limit 10000'),
    ('{1,2}' * 14, 'stands for 16384 paths, limit 10000'),
    ('a{7..0}', 'the range ends before it starts'),
  ],
)
def test_patterns_are_bounded_before_they_are_listed(pattern, problem):
  with pytest.raises(ValueError, match=problem):
    patterns.expand(pattern)


@given(st.lists(st.integers(0, 150), min_size=1, max_size=3))
def test_no_pattern_gives_more_than_the_limit(lasts):
  pattern = '-'.join(f'{{0..{last}}}' for last in lasts)
  if (count := math.prod(last + 1 for last in lasts)) > patterns.LIMIT:
    with pytest.raises(ValueError, match=f'stands for {count} paths'):
      patterns.expand(pattern)
  else:
    assert len(set(patterns.expand(pattern))) == count


def test_several_paths_are_one_corpus(tmp_path):
  for name in 'ab':
    folder = tmp_path / f'part-{name}'
    folder.mkdir()
    for stem in ('same', name):
      (folder / f'{stem}.wav').touch()
      (folder / f'{stem}.txt').write_text(name)
  items = list(open_corpus('folder', tmp_path / 'part-{a,b}'))
  assert [item.id for item in items] == ['a', 'same', 'b', 'same']
  assert "id 'same' is not the first" in items[3].reason
  with pytest.raises(FileNotFoundError, match='part-c: the corpus does not exist'):
    open_corpus('folder', tmp_path / 'part-{a,c}')


def test_a_path_that_is_there_is_no_pattern(tmp_path):
  folder = tmp_path / '{0..1}'
  folder.mkdir()
  (folder / 'x.wav').touch()
  (folder / 'x.txt').touch()
  (item,) = open_corpus('folder', folder)
  assert item.audio_filepath == folder / 'x.wav'
