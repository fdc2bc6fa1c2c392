# SPDX-License-Identifier: Apache-2.0
"""BLEU and chrF of a corpus, by sacreBLEU.

Statistics are counted once per pair of hypothesis and reference and then added, so that
resamples of a corpus cost additions only, and languages with different tokenisers have
one BLEU together.
"""

import functools
from collections.abc import Sequence
from typing import Any

from acl_jax.evaluation.scoring.languages import TOKENISERS
from acl_jax.evaluation.scoring.packages import require


def bleu(
  hypotheses: Sequence[str], references: Sequence[str], langs: Sequence[str]
) -> float:
  """Return BLEU, 0 to 100, of at least one hypothesis.

  langs: of each reference, a key of `TOKENISERS`.
  """
  tokenisers = [TOKENISERS[lang] for lang in langs]
  return _score(_bleu('13a'), 'bleu', hypotheses, references, tokenisers)


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> float:
  """Return chrF2, 0 to 100, of at least one hypothesis."""
  return _score(_chrf(), 'chrf', hypotheses, references, [''] * len(references))


def check_tokeniser(lang: str) -> None:
  """Raise RuntimeError if the tokeniser of a language needs a missing package."""
  try:
    _bleu(TOKENISERS[lang])
  except ImportError as error:
    raise RuntimeError(str(error)) from None


def signature() -> str:
  """Return sacreBLEU's signatures of `bleu` and `chrf`, and the other tokenisers."""
  metrics = [_bleu('13a'), _chrf()]
  for metric in metrics:
    metric.corpus_score(['a'], [['a']])  # the signature needs a number of references
  bleu_signature, chrf_signature = (str(m.get_signature()) for m in metrics)
  others = [f'{lang}: tok:{t}' for lang, t in TOKENISERS.items() if t != '13a']
  return f'BLEU {bleu_signature} ({", ".join(others)}); chrF2 {chrf_signature}'


@functools.cache
def _bleu(tokeniser: str) -> Any:
  # Answers may end in ' .': `force` keeps sacreBLEU from taking them for tokenised.
  return require('sacrebleu', 'sacrebleu').BLEU(tokenize=tokeniser, force=True)


@functools.cache
def _chrf() -> Any:
  return require('sacrebleu', 'sacrebleu').CHRF()


@functools.lru_cache(maxsize=100_000)
def _statistics(
  name: str, tokeniser: str, hypothesis: str, reference: str
) -> tuple[int, ...]:
  metric = _bleu(tokeniser) if name == 'bleu' else _chrf()
  (statistics,) = metric._extract_corpus_statistics([hypothesis], [[reference]])
  return tuple(statistics)


def _score(
  metric: Any,
  name: str,
  hypotheses: Sequence[str],
  references: Sequence[str],
  tokenisers: Sequence[str],
) -> float:
  pairs = zip(tokenisers, hypotheses, references, strict=True)
  return metric._aggregate_and_compute(
    [_statistics(name, *pair) for pair in pairs]
  ).score
