# SPDX-License-Identifier: Apache-2.0
"""The cascade baseline: a strong recogniser transcribes, the LLM reads the text."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from acl_jax.evaluation.cache import ResultCache
from acl_jax.weights.fingerprint import fingerprint
from data_pipeline import audio
from data_pipeline.corpora.utterance import Utterance
from data_pipeline.recogniser import Whisper


class Recogniser(Whisper):
  """The recogniser of the cascade, with the flag `--cascade`; see `Whisper`."""

  def __init__(self, folder: str | Path, at_once: int | None = None):
    otherwise = ', or skip the cascade with --cascade=none'
    super().__init__(folder, '--cascade', at_once, otherwise=otherwise)


def transcribe_utterances(
  recogniser: Recogniser,
  utterances: Sequence[Utterance],
  cache: ResultCache,
  advance: Callable[[int], None],
) -> list[str]:
  """Transcribe utterances, in order.

  Args:
    recogniser: Applied to utterances that are not in the cache.
    utterances: Their audio must be readable.
    cache: This recogniser's transcripts, keyed by a fingerprint of the waveform.
    advance: Called with 1 after each utterance.
  """

  def transcribe(utterance: Utterance) -> str:
    waveform = utterance.read(audio.Limits())
    key = fingerprint([waveform.tobytes()])
    if key not in cache:
      cache[key] = recogniser(waveform)
    return cache[key]

  transcripts = []
  beside = ThreadPoolExecutor(recogniser.at_once)
  try:
    for transcript in beside.map(transcribe, utterances):
      transcripts.append(transcript)
      advance(1)
  finally:
    beside.shutdown(cancel_futures=True)
  return transcripts
