# SPDX-License-Identifier: Apache-2.0
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.evaluation.scoring import overlap
from acl_jax.evaluation.scoring.languages import NAMES, TOKENISERS

HYPOTHESES = [
  'The cat sat on mat .',
  'Hello, world!',
  '',
  'It is raining - again and again.',
  'Le prix est de 3,50 €.',
]
REFERENCES = [
  'The cat sat on the mat.',
  'Hello world!',
  'Nothing was said.',
  'It rains again, and again.',
  "Le prix s'élève à 3,50 €.",
]
WORDS = st.lists(st.sampled_from('the cat sat on a mat . , été'.split()), min_size=5)
TEXTS = st.text(max_size=30)


@pytest.mark.parametrize('count', [1, 2, 5])
def test_a_corpus_scores_as_by_sacrebleu(count):
  hypotheses, references = HYPOTHESES[-count:], REFERENCES[-count:]
  bleu = sacrebleu.corpus_bleu(hypotheses, [references], force=True)
  chrf = sacrebleu.corpus_chrf(hypotheses, [references])
  assert overlap.bleu(hypotheses, references, ['fr'] * count) == bleu.score
  assert overlap.chrf(hypotheses, references) == chrf.score


def test_chinese_is_tokenised_as_chinese():
  hypotheses, references = ['我喜欢绿色的苹果和梨'], ['我喜欢红色的苹果和梨']
  ours = overlap.bleu(hypotheses, references, ['zh'])
  assert ours == sacrebleu.corpus_bleu(hypotheses, [references], tokenize='zh').score
  assert ours > 10 * overlap.bleu(hypotheses, references, ['en'])


def test_bleu_is_pooled_not_averaged():
  hypotheses = ['a b c d e f g h', 'x']
  references = ['a b c d e f g h', 'y z']
  pooled = overlap.bleu(hypotheses, references, ['en', 'de'])
  single = [
    overlap.bleu([h], [r], ['en']) for h, r in zip(hypotheses, references, strict=True)
  ]
  assert pooled > sum(single) / 2 + 10


@given(WORDS)
def test_identical_texts_score_100(words):
  text = ' '.join(words)
  assert overlap.bleu([text], [text], ['it']) == pytest.approx(100)
  assert overlap.chrf([text], [text]) == pytest.approx(100)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_any_texts_score_between_0_and_100(pairs):
  hypotheses, references = zip(*pairs, strict=True)
  langs = [('en', 'zh')[i % 2] for i in range(len(pairs))]
  assert -1e-9 <= overlap.bleu(hypotheses, references, langs) <= 100 + 1e-9
  assert -1e-9 <= overlap.chrf(hypotheses, references) <= 100 + 1e-9


def test_the_signature_is_sacrebleus():
  signature = overlap.signature()
  assert f'tok:13a|smooth:exp|version:{sacrebleu.__version__}' in signature
  assert 'zh: tok:zh' in signature and 'chrF2 nrefs:1' in signature


def test_every_language_with_a_tokeniser_has_a_name():
  assert TOKENISERS.keys() < NAMES.keys()
  overlap.check_tokeniser('zh')
