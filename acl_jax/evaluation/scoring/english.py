# SPDX-License-Identifier: Apache-2.0
"""Sentences and words of English answers, and the language of an answer.

The algorithms are those of IFEval's own code: NLTK's Punkt, its word tokeniser, and
langdetect. Punkt's trained English parameters are a download; the abbreviations below
stand in for them.
"""

import functools
import re
from typing import Any

from acl_jax.evaluation.scoring.packages import require

_ABBREVIATIONS = (
  'a.d a.m adm al apr art assn aug ave b.c blvd bldg bros c.e ca capt cf cmdr co col'
  ' corp dec dept dr e.g ed eds esq est etc feb fig figs ft gen gov hon hr hrs i.e'
  ' inc jan jr lt ltd maj min mr mrs ms mt no nos nov oct op p.m p.s ph.d pp prof pt'
  ' rd rep rev sec sen sep sept sgt sr st tel u.k u.n u.s u.s.a vol vs'
).split()


def split_sentences(text: str) -> list[str]:
  """Return the sentences of an English text, stripped."""
  return _punkt().tokenize(text)


def count_sentences(text: str) -> int:
  """Return the number of sentences of an English text."""
  return len(split_sentences(text))


def count_words(text: str) -> int:
  """Return the number of runs of letters, digits and underscores."""
  return len(re.findall(r'\w+', text))


def count_capital_words(text: str) -> int:
  """Return the number of tokens whose letters are all capital."""
  tokenize = _word_tokenizer().tokenize
  words = (word for sentence in split_sentences(text) for word in tokenize(sentence))
  return sum(word.isupper() for word in words)


def has_language(text: str, lang: str) -> bool:
  """Return whether langdetect finds this language; True where it cannot tell."""
  exceptions = require('langdetect.lang_detect_exception', 'langdetect')
  detector = _detectors().create()
  detector.append(text)
  try:
    return detector.detect() == lang
  except exceptions.LangDetectException:  # no letters
    return True


def known_languages() -> list[str]:
  """Return the codes that `has_language` knows."""
  return sorted(_detectors().get_lang_list())


@functools.cache
def _punkt() -> Any:
  punkt = require('nltk.tokenize.punkt', 'nltk')
  parameters = punkt.PunktParameters()
  parameters.abbrev_types.update(_ABBREVIATIONS)
  return punkt.PunktSentenceTokenizer(parameters)


@functools.cache
def _word_tokenizer() -> Any:
  return require('nltk.tokenize', 'nltk').NLTKWordTokenizer()


@functools.cache
def _detectors() -> Any:
  module = require('langdetect.detector_factory', 'langdetect')
  factory = module.DetectorFactory()
  factory.set_seed(0)  # it draws n-grams at random
  factory.load_profile(module.PROFILES_DIRECTORY)
  return factory
