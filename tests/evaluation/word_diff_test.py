# SPDX-License-Identifier: Apache-2.0
from acl_jax.evaluation.word_diff import diff_words


def test_runs_of_differing_words_are_marked():
  runs = diff_words('The number is five.', 'the numbers is five')
  assert runs == [('the', False), ('numbers', True), ('is five', False)]


def test_empty_transcripts():
  assert diff_words('five', '') == []
  assert diff_words('', 'five six') == [('five six', True)]
