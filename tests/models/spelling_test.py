# SPDX-License-Identifier: Apache-2.0
import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.models.spelling import (
  MAX_TOKEN_LETTERS,
  MULTIPLIER,
  NUM_BUCKETS,
  Spelling,
  encode_letters,
  ngrams,
  token_letters,
)

PIECES = (' telephone', ' telegraph', 'Egypt', '?', ' a', '')
SIZE = 5


@pytest.fixture
def spelling():
  spelling = Spelling(len(PIECES), SIZE, rngs=nnx.Rngs(0))
  spelling.letters[...] = jnp.asarray(token_letters(PIECES))
  return spelling


def bucket(*letters):
  """The bucket of a pair or a triple, in Python's unbounded integers."""
  number = 0 if len(letters) == 2 else 31**2
  for letter, power in zip(letters[::-1], (1, 31, 31**2), strict=False):
    number += letter * power
  return (number * int(MULTIPLIER) % 2**32 >> 16) % NUM_BUCKETS


def expected_ngrams(letters):
  """Slide over the letters with an edge on each side."""
  padded = [0, *(int(x) for x in letters if x), 0]
  if len(padded) == 2:
    return []
  full = len(padded) == MAX_TOKEN_LETTERS + 2
  pairs = list(zip(padded, padded[1:], strict=False))
  triples = list(zip(padded, padded[1:], padded[2:], strict=False))
  return [bucket(*gram) for gram in (pairs[:-1] if full else pairs) + triples]


@given(st.lists(st.text(max_size=15), min_size=1, max_size=4))
def test_ngrams_are_pairs_and_triples_of_letters(pieces):
  letters = token_letters(pieces)
  buckets, present = ngrams(jnp.asarray(letters))
  for row, bucket_row, present_row in zip(letters, buckets, present, strict=True):
    actual = collections.Counter(np.asarray(bucket_row)[np.asarray(present_row) > 0])
    assert actual == collections.Counter(expected_ngrams(row))


def test_buckets_never_change():
  """Adapter files store letters, not buckets; the hash must stay the same forever."""
  actual, present = ngrams(jnp.asarray(token_letters([' cat'])))
  assert actual[present > 0].tolist() == [
    2009,
    1543,
    94,
    1293,
    1626,
    1095,
    1881,
    1548,
    730,
  ]


def test_token_letters_are_numbered():
  (row,) = token_letters([' Ab-é9 of thirteen'])
  assert row.tolist() == [27, 1, 2, 28, 30, 28, 27, 15, 6, 27, 20, 8]
  assert not token_letters(['']).any()


@pytest.mark.parametrize(
  'text, letters',
  [
    ("Don't re-do it!", "don't re do it"),
    ('  12 b,  c ', 'b c'),
    ('Été', 't'),
    ('?', ''),
  ],
)
def test_transcripts_become_letters(text, letters):
  alphabet = ' abcdefghijklmnopqrstuvwxyz'
  expected = [28 if x == "'" else alphabet.index(x) or 27 for x in letters]
  assert encode_letters(text) == expected


def test_a_vector_is_the_scaled_sum_of_its_ngrams(spelling):
  vectors = jax.jit(spelling)()
  for letters, vector in zip(spelling.letters[...], vectors, strict=True):
    buckets = expected_ngrams(letters)
    total = np.asarray(spelling.buckets[...])[buckets].sum(0)
    np.testing.assert_allclose(vector, total / max(len(buckets), 1) ** 0.5, atol=1e-6)


def test_candidates_get_the_vectors_of_the_full_vocabulary(spelling):
  candidates = jnp.asarray([3, 0, 4])
  every, subset = spelling(), spelling(candidates)
  np.testing.assert_array_equal(subset, every[candidates])


def test_similar_spellings_get_similar_vectors():
  spelling = Spelling(3, 512, rngs=nnx.Rngs(1))
  pieces = [' telephone', ' telegraph', ' sublime']
  spelling.letters[...] = jnp.asarray(token_letters(pieces))
  a, b, c = spelling()
  assert a @ b > 3 * abs(a @ c)
