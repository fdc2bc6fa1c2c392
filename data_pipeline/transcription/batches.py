# SPDX-License-Identifier: Apache-2.0
"""The work on a batch of recordings: read, look for speech, recognise."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipeline import audio
from data_pipeline.corpora.text_files import is_blank
from data_pipeline.corpora.utterance import Utterance
from data_pipeline.recogniser import Transcript, Whisper
from data_pipeline.voice_activity import has_speech

FLAGS = ('no_speech', 'repetition', 'low_log_prob')


@dataclasses.dataclass(frozen=True)
class Settings:
  """Everything that determines a transcript except the recording and the model."""

  language: str | None = None  # None to guess it
  limits: audio.Limits = audio.Limits()


def transcribe_batch(
  utterances: Sequence[Utterance], recogniser: Whisper, settings: Settings
) -> list[dict[str, Any]]:
  """Return a result for every utterance.

  It is what `describe` returns, or `field` and `reason` if its audio cannot be read.
  """
  results: list[dict[str, Any]] = []
  spoken: dict[int, np.ndarray] = {}
  for index, utterance in enumerate(utterances):
    try:
      samples = utterance.read(settings.limits)
    except audio.AudioError as error:
      results.append({'field': error.field, 'reason': str(error)})
      continue
    if has_speech(samples):
      spoken[index] = samples
    seconds = len(samples) / audio.SAMPLE_RATE
    results.append({'seconds': seconds, **describe(Transcript('', ''))})
  if spoken:
    known = [utterances[index].lang or settings.language for index in spoken]
    transcripts = recogniser.transcribe(list(spoken.values()), known)
    for index, transcript in zip(spoken, transcripts, strict=True):
      results[index] |= describe(transcript)
  return results


def describe(transcript: Transcript) -> dict[str, Any]:
  """Return a transcript as JSON values, with its confidence and flags.

  The confidence is the geometric mean of the tokens' probabilities, and 0 for silence
  and for texts that repeat themselves, of which Whisper may be sure.
  """
  is_silence = transcript.is_silence or is_blank(transcript.text)
  present = (is_silence, transcript.repeats, not is_silence and transcript.is_unlikely)
  flags = [flag for flag, has_flag in zip(FLAGS, present, strict=True) if has_flag]
  sure = 0.0 if is_silence or transcript.repeats else math.exp(transcript.mean_log_prob)
  return {
    'text': '' if is_silence else ' '.join(transcript.text.split()),
    'lang': transcript.lang,
    'confidence': round(min(sure, 1.0), 4),
    'mean_log_prob': round(transcript.mean_log_prob, 4),
    'no_speech_prob': round(transcript.no_speech_prob, 4),
    'compression_ratio': round(transcript.compression_ratio, 3),
    'flags': flags,
  }
