# SPDX-License-Identifier: Apache-2.0
"""Summaries of minutes of audio.

A line has `task: "summarisation"`, `audio_filepath` and `text`; optional `reference`,
`instruction` and its `position`. Without a reference an answer is compared with the
model's own summary of the written transcript.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from acl_jax.evaluation.scoring import learned, rouge
from acl_jax.evaluation.tasks import instructed
from acl_jax.evaluation.tasks.fields import read_speech
from acl_jax.evaluation.tasks.task import Answer, Case
from data_pipeline.corpora.manifest import LineError

INSTRUCTION = 'Summarise this in two or three sentences.'
MAX_NEW_TOKENS = 256


@dataclasses.dataclass(frozen=True)
class Summarisation:
  """ROUGE-L and ratio of lengths; BERTScore where bert-score is installed."""

  name: str = 'summarisation'
  binary: bool = False

  @property
  def metrics(self) -> tuple[str, ...]:
    extra = ('bert_score',) if learned.BERT_SCORE_IS_INSTALLED else ()
    return ('rouge_l', *extra, 'length_ratio')

  @property
  def left_out(self) -> tuple[str, ...]:
    """What is not measured, and why."""
    if learned.BERT_SCORE_IS_INSTALLED:
      return ()
    return ('BERTScore: bert-score is not installed',)

  def applies(self, entry: Mapping[str, Any]) -> bool:
    return entry.get('task') == self.name

  def parse(self, entry: Mapping[str, Any], folder: pathlib.Path) -> list[Case]:
    """Return one case; `expected` is None if the line has no reference.

    Its group is what it is compared with: 'reference' or 'text answer'.
    """
    with instructed.naming(self.name):
      speech = read_speech(entry, folder)
      reference = instructed.optional_string(entry, 'reference')
      if reference is not None and not rouge.has_words(reference):
        raise LineError('reference', 'has no word of letters a to z, as ROUGE needs')
      turn = instructed.instructed_turn(entry, speech, INSTRUCTION, 'before')
    return [
      Case(
        speech.utterance.id,
        (turn,),
        MAX_NEW_TOKENS,
        group='text answer' if reference is None else 'reference',
        expected=reference,
      )
    ]

  def expected_from(self, case: Case, text_answer: Answer) -> Case:
    """Return the case with the answer to the written text as `expected`, if it is None.

    To be called before `score` and `pool`, which need something to compare with.
    """
    if case.expected is not None:
      return case
    return dataclasses.replace(case, expected=text_answer.text)

  def score(self, case: Case, answer: Answer) -> dict[str, float]:
    return {'rouge_l': rouge.rouge_l(answer.text, _expected(case))}

  def pool(self, cases: Sequence[Case], answers: Sequence[Answer]) -> dict[str, float]:
    """Return words of all answers over words of all references, and BERTScore."""
    if not cases:
      return {}
    texts = [answer.text for answer in answers]
    references = [_expected(case) for case in cases]
    words = sum(len(text.split()) for text in texts)
    reference_words = sum(len(reference.split()) for reference in references)
    scores = {'length_ratio': words / max(reference_words, 1)}
    if learned.BERT_SCORE_IS_INSTALLED:
      rows = list(zip(texts, references, strict=True))
      scores['bert_score'] = learned.bert_score().mean(rows)
    return scores


def _expected(case: Case) -> str:
  if case.expected is None:
    raise ValueError(
      f'case {case.id!r} has no reference: give it the answer to the written text by '
      '`expected_from`'
    )
  return case.expected
