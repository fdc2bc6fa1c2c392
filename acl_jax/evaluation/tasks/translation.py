# SPDX-License-Identifier: Apache-2.0
"""Speech translation: audio in one language, the answer in another.

A line has `audio_filepath`, `text`, `lang` (of both), `reference` and `target_lang`;
optional `instruction`, and its `position`: 'before' or 'after' the audio. Without one
about half of the lines have it before and half after, by their ids.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from acl_jax.evaluation.scoring import learned, overlap
from acl_jax.evaluation.scoring.languages import NAMES, TOKENISERS, primary_language
from acl_jax.evaluation.tasks import instructed
from acl_jax.evaluation.tasks.fields import nonempty_string, read_speech
from acl_jax.evaluation.tasks.task import Answer, Case
from data_pipeline.corpora.manifest import LineError, shorten

MAX_NEW_TOKENS = 256
SPARE_TOKENS = 32  # of an answer, beyond those of the reference


@dataclasses.dataclass(frozen=True)
class Translation:
  """BLEU and chrF, pooled over all cases; COMET where unbabel-comet is installed."""

  name: str = 'translation'
  binary: bool = False

  @property
  def metrics(self) -> tuple[str, ...]:
    return ('bleu', 'chrf') + (('comet',) if learned.COMET_IS_INSTALLED else ())

  @property
  def signature(self) -> str:
    """Of the metrics, as sacreBLEU writes it."""
    return overlap.signature()

  @property
  def left_out(self) -> tuple[str, ...]:
    """What is not measured, and why."""
    if learned.COMET_IS_INSTALLED:
      return ()
    return ('COMET: unbabel-comet is not installed',)

  def applies(self, entry: Mapping[str, Any]) -> bool:
    return 'reference' in entry and 'target_lang' in entry

  def parse(self, entry: Mapping[str, Any], folder: pathlib.Path) -> list[Case]:
    """Return one case; its group is the pair of languages, as in 'fr-en'."""
    with instructed.naming(self.name):
      speech = read_speech(entry, folder)
      source = _read_language(entry, 'lang')
      target = _read_language(entry, 'target_lang')
      if source == target:
        raise LineError('target_lang', f'is {target!r}, as is lang')
      _check_tokeniser(target)
      reference = nonempty_string(entry, 'reference')
      drawn = instructed.draw_position(speech.utterance.id)
      position = instructed.read_position(entry, drawn)
      instruction = _instruction(position, NAMES[source], NAMES[target])
      turn = instructed.instructed_turn(entry, speech, instruction, position)
    return [
      Case(
        speech.utterance.id,
        (turn,),
        _tokens_needed(reference),
        group=f'{source}-{target}',
        expected={'reference': reference, 'lang': target},
      )
    ]

  def score(self, case: Case, answer: Answer) -> dict[str, float]:
    """Return nothing: all is pooled."""
    return {}

  def pool(self, cases: Sequence[Case], answers: Sequence[Answer]) -> dict[str, float]:
    if not cases:
      return {}
    texts = [answer.text for answer in answers]
    references = [case.expected['reference'] for case in cases]
    langs = [case.expected['lang'] for case in cases]
    scores = {
      'bleu': overlap.bleu(texts, references, langs),
      'chrf': overlap.chrf(texts, references),
    }
    if learned.COMET_IS_INSTALLED:
      sources = [case.speech[0].utterance.text for case in cases]
      rows = list(zip(sources, texts, references, strict=True))
      scores['comet'] = learned.comet().mean(rows)
    return scores


def _tokens_needed(reference: str) -> int:
  """Return how many tokens an answer may have: no token is less than a byte."""
  return min(len(reference.encode()) + SPARE_TOKENS, MAX_NEW_TOKENS)


def _instruction(position: str, source: str, target: str) -> str:
  where = 'following' if position == 'before' else 'above'
  return (
    f'Translate the {where} from {source} into {target}. Answer with the translation '
    'only.'
  )


def _read_language(entry: Mapping[str, Any], key: str) -> str:
  """Return a code in `NAMES`."""
  code = primary_language(nonempty_string(entry, key))
  if code not in NAMES:
    raise LineError(
      key,
      f'is {shorten(entry[key])}, not the code of a language that can be named; known: '
      + ' '.join(sorted(NAMES)),
    )
  return code


def _check_tokeniser(lang: str) -> None:
  if lang not in TOKENISERS:
    problem = f'is {lang!r} ({NAMES[lang]}), for which sacreBLEU has no tokeniser'
    raise LineError('target_lang', problem)
  try:
    overlap.check_tokeniser(lang)
  except RuntimeError:
    raise LineError(
      'target_lang',
      f'is {lang!r} ({NAMES[lang]}), whose tokeniser for BLEU is not installed; run '
      f"pip install 'sacrebleu[{lang}]'",
    ) from None
