# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from acl_jax.evaluation.scoring import rouge

TEXTS = st.text(max_size=40)


# By hand: 2 P R / (P + R) of the longest common subsequence of words.
@pytest.mark.parametrize(
  ('hypothesis', 'reference', 'expected'),
  [
    ('the cat sat', 'The cat sat!', 1.0),
    ('cat the sat', 'the cat sat', 2 / 3),
    ('a c', 'a b c', 0.8),
    ('cats', 'cat', 0.0),  # no stemming
    ('', 'cat', 0.0),
  ],
)
def test_rouge_l(hypothesis, reference, expected):
  assert rouge.rouge_l(hypothesis, reference) == pytest.approx(expected)
  theirs = RougeScorer(['rougeL']).score(reference, hypothesis)['rougeL'].fmeasure
  assert rouge.rouge_l(hypothesis, reference) == theirs


@given(TEXTS)
def test_a_text_with_words_scores_1_against_itself(text):
  assert rouge.rouge_l(text, text) == float(rouge.has_words(text))


@given(TEXTS, TEXTS)
def test_any_texts_score_between_0_and_1_and_alike_in_both_directions(a, b):
  assert 0 <= rouge.rouge_l(a, b) <= 1
  assert rouge.rouge_l(a, b) == pytest.approx(rouge.rouge_l(b, a))
