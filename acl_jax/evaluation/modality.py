# SPDX-License-Identifier: Apache-2.0
"""The task `modality`: how well audio replaces its transcript, by the likelihood of the
answer to the transcript.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from acl_jax.evaluation import encoding, examples
from acl_jax.evaluation.babble import describe_noise, with_babble
from acl_jax.evaluation.cascade import Recogniser
from acl_jax.evaluation.examples import Example
from acl_jax.evaluation.preparation import add_reference_responses, prepare_examples
from acl_jax.evaluation.prompt_batches import PromptCase
from acl_jax.evaluation.report import ReportExample
from acl_jax.evaluation.responses import generate_responses
from acl_jax.evaluation.scores import Score, score_cases
from acl_jax.evaluation.summary import summarise
from acl_jax.hearing.hearing import Hearing
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.runtime.progress import progress
from acl_jax.text.frontend import TextFrontend
from data_pipeline.corpora.utterance import AnyUtterance, BadUtterance, Utterance

SAMPLED_EXAMPLES = 12


class Lines(NamedTuple):
  """The usable lines of a manifest, in babble if there is any, and the others."""

  usable: list[Utterance]
  bad: list[BadUtterance]


def check_lines(
  lines: Sequence[AnyUtterance], manifest: str | Path, babble_snr: float | None
) -> Lines:
  """Return the lines of a manifest for `Modality`; their audio is not read.

  ValueError if no utterance can be used, or one alone should be in babble.
  """
  usable, bad = examples.split_usable(lines)
  _check_not_empty(usable, bad, manifest)
  if babble_snr is not None:
    usable = with_babble(usable, babble_snr)
  return Lines(usable, bad)


class Modality(NamedTuple):
  """Settings of an evaluation.

  recogniser: None to leave the cascade out. cache: a folder. babble_snr: dB above a
  babble of other utterances; None for the audio as it is. description: `model` of the
  report.
  """

  model: SpeechLLM
  text: TextFrontend
  hearing: Hearing
  recogniser: Recogniser | None
  cache: Path
  max_new_tokens: int
  babble_snr: float | None
  description: Mapping[str, Any]

  def evaluate(
    self, lines: Lines, manifest: str | Path
  ) -> tuple[dict[str, Any], list[ReportExample]]:
    """Evaluate lines of a manifest; returns its keys of the report, and a sample.

    ValueError if no utterance can be used.
    """
    model, text, hearing = self.model, self.text, self.hearing
    prepared, unusable = prepare_examples(
      model,
      text,
      hearing.decode,
      lines.usable,
      self.recogniser,
      self.cache,
      self.max_new_tokens,
      hearing,
    )
    bad = [*lines.bad, *unusable]
    _check_not_empty(prepared, bad, manifest)
    digest = self.description['llm']['sha256'][:16]
    prepared = add_reference_responses(
      model,
      text,
      prepared,
      self.max_new_tokens,
      self.cache / f'responses-{digest}.jsonl',
    )
    scores = score_all(model, text, prepared)
    skipped = [{'id': item.id, 'reason': item.reason} for item in bad]
    summary = summarise(prepared, scores, self.description, skipped)
    summary['noise'] = describe_noise(self.babble_snr)
    silent = [example.utterance.id for example in prepared if not example.has_speech]
    summary['without_speech'] = silent
    return summary, self.sample(prepared, scores)

  def sample(
    self, prepared: Sequence[Example], scores: Mapping[str, Sequence[Score]]
  ) -> list[ReportExample]:
    """Return a random sample of the examples, with the responses to their audio."""
    model, text = self.model, self.text
    rng = np.random.default_rng(0)
    count = min(SAMPLED_EXAMPLES, len(prepared))
    indices = sorted(rng.choice(len(prepared), count, replace=False).tolist())
    cases = [PromptCase(text.audio_prompt(), [prepared[i].clip]) for i in indices]
    responses = dict(
      generate_responses(
        model,
        cases,
        max_new_tokens=self.max_new_tokens,
        stop_ids=text.tokenizer.stop_ids,
      )
    )
    sampled = []
    for case, index in enumerate(indices):
      example = prepared[index]
      waveform = encoding.read_audio(model, example.utterance, self.hearing)
      sampled.append(
        ReportExample(
          id=example.utterance.id,
          waveform=waveform,
          log_mel=encoding.compute_log_mel(model, waveform),
          text=example.utterance.text,
          cascade_transcript=example.cascade_transcript,
          ctc_transcript=example.ctc_transcript,
          reference_response=text.tokenizer.decode(example.response).strip(),
          audio_response=text.tokenizer.decode(responses[case]).strip(),
          nll={name: float(group[index].nll.mean()) for name, group in scores.items()},
        )
      )
    return sampled


def score_all(
  model: SpeechLLM, text: TextFrontend, prepared: Sequence[Example]
) -> dict[str, list[Score]]:
  """Score the responses under every condition; returns the scores by condition."""
  cases = examples.make_prompt_cases(text, prepared)
  with progress('score', sum(map(len, cases.values()))) as advance:
    return {name: score_cases(model, group, advance) for name, group in cases.items()}


def _check_not_empty(
  usable: Sequence, bad: Sequence[BadUtterance], manifest: str | Path
) -> None:
  if not usable:
    first = f'. The first reason: {bad[0].reason}' if bad else ''
    raise ValueError(f'{manifest}: none of {len(bad)} examples can be used{first}')
