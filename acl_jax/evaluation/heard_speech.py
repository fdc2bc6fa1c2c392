# SPDX-License-Identifier: Apache-2.0
"""What the model and the recogniser of the cascade hear, once per recording.

Both are stored by the content of the audio, so that neither hears a recording twice,
whatever tasks it is in, and an interrupted run resumes.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from acl_jax.evaluation.cache import ResultCache
from acl_jax.evaluation.cascade import Recogniser
from acl_jax.evaluation.degradations import degrade, others_of
from acl_jax.evaluation.media import encode_mp3
from acl_jax.evaluation.tasks.task import Speech
from acl_jax.hearing.batch import hear_all
from acl_jax.hearing.heard import Heard
from acl_jax.hearing.hearing import Hearing
from acl_jax.runtime.files import write_atomically
from acl_jax.weights.fingerprint import describe, fingerprint
from data_pipeline import audio

GROUP, GROUP_SECONDS = 64, 300.0  # recordings in memory, and how long they last

Waveform = Float32[np.ndarray, ' samples']


class HeardSpeech(NamedTuple):
  """What was heard of a `Speech`.

  clip: Embeddings for the LLM. transcript: The model's own; None if it has none.
  cascade_transcript: The recogniser's; None without a cascade. tokens: Of the model's
  own transcript, each `text`, `log_prob` and `alternatives`. has_speech: See
  `hearing.heard`. degraded: the audio that was heard, as a file, if it is not that of
  the utterance.
  """

  clip: Float[np.ndarray, 'n e']
  transcript: str | None
  cascade_transcript: str | None
  tokens: list[dict[str, Any]]
  has_speech: bool = True  # as of a result that was stored without it
  degraded: Path | None = None


class Recording(NamedTuple):
  """Audio to hear. content: its fingerprint. degraded: as of `HeardSpeech`."""

  speech: Speech
  samples: Waveform
  content: str
  degraded: Path | None


class Listener:
  """Hears audio with the model, and transcribes it with the recogniser beside it.

  recogniser: None to leave the cascade out. cache: a folder.
  """

  def __init__(self, hearing: Hearing, recogniser: Recogniser | None, cache: Path):
    self.hearing, self.recogniser = hearing, recogniser
    model = hearing.model
    digest = describe((model.encoder, model.adapter, model.llama.embed_tokens))
    beams = getattr(model.adapter.config, 'beams', 1)
    self.folder = cache / f'heard-{digest["sha256"][:16]}-{beams}'
    self.folder.mkdir(parents=True, exist_ok=True)
    self.transcripts = None
    self._transcribing: dict[str, Future] = {}
    if recogniser is not None:
      path = cache / f'cascade-{recogniser.sha256[:16]}.jsonl'
      self.transcripts = ResultCache(path)

  def listen(
    self, speech: Iterable[Speech], advance: Callable[[int], None]
  ) -> tuple[dict[Speech, HeardSpeech], dict[Speech, str]]:
    """Return what is heard of each, and why the others cannot be heard.

    advance: called with 1 for each that is different.
    """
    heard: dict[Speech, HeardSpeech] = {}
    reasons: dict[Speech, str] = {}
    threads = 1 if self.recogniser is None else self.recogniser.at_once
    beside = ThreadPoolExecutor(threads)
    try:
      for group in self._read_groups([*dict.fromkeys(speech)], reasons, advance):
        transcripts = [self._submit(beside, recording) for recording in group]
        results = self._hear(group)
        for recording, transcript in zip(group, transcripts, strict=True):
          result = results[recording.content]
          heard[recording.speech] = result._replace(
            cascade_transcript=transcript.result(), degraded=recording.degraded
          )
          advance(1)
    finally:
      beside.shutdown(cancel_futures=True)
    return heard, reasons

  def _read_groups(
    self,
    speech: Sequence[Speech],
    reasons: dict[Speech, str],
    advance: Callable[[int], None],
  ) -> Iterator[list[Recording]]:
    """Read and degrade recordings; yield as many as are heard together.

    What cannot be read is put into `reasons`.
    """
    utterances = [*dict.fromkeys(each.utterance for each in speech)]
    limits = audio.Limits(seconds=self.hearing.max_seconds)
    group: list[Recording] = []
    for each in speech:
      utterance, others = each.utterance, others_of(each.utterance, utterances)
      try:
        samples = utterance.read(limits)
        samples = degrade(samples, utterance.id, each.degradation, others)
        self.hearing.check(samples)
      except ValueError as error:
        reasons[each] = str(error)
        advance(1)
        continue
      content = fingerprint([np.ascontiguousarray(samples).tobytes()])
      degraded = self._store(samples, content) if each.degradation else None
      group.append(Recording(each, samples, content, degraded))
      seconds = sum(len(recording.samples) for recording in group) / audio.SAMPLE_RATE
      if len(group) == GROUP or seconds > GROUP_SECONDS:
        yield group
        group = []
    if group:
      yield group

  def _submit(self, beside: ThreadPoolExecutor, recording: Recording) -> Future:
    """Start to transcribe a recording, unless it has been started."""
    language = _language(recording.speech.utterance.lang)
    content = recording.content
    key = content if language == 'en' else f'{content}-{language}'
    if key not in self._transcribing:
      self._transcribing[key] = beside.submit(
        self._transcribe, recording.samples, key, language
      )
    return self._transcribing[key]

  def _hear(self, group: Sequence[Recording]) -> dict[str, HeardSpeech]:
    """Return what the model hears by content, from the cache where it is there."""
    results: dict[str, HeardSpeech] = {}
    new: dict[str, Waveform] = {}
    for recording in group:
      path = self._path(recording.content)
      if path.exists():
        with np.load(path) as stored:
          rest = json.loads(str(stored['rest']))
          results[recording.content] = HeardSpeech(stored['clip'], *rest)
      else:
        new[recording.content] = recording.samples
    contents = [*new]
    for index, heard in hear_all(self.hearing, [*new.values()]):
      results[contents[index]] = result = _to_speech(heard)
      file = io.BytesIO()
      np.savez(file, clip=result.clip, rest=np.array(json.dumps(result[1:5])))
      write_atomically(self._path(contents[index]), file.getvalue())
    return results

  def _path(self, content: str) -> Path:
    return self.folder / f'{content}.npz'

  def _store(self, samples: Waveform, content: str) -> Path:
    """Return a file of what was heard; it is written if it is not there."""
    path = self.folder.resolve() / f'{content}.mp3'
    if not path.exists():
      write_atomically(path, encode_mp3(samples))
    return path

  def _transcribe(self, samples: Waveform, key: str, language: str) -> str | None:
    """Return what the recogniser hears, from the cache if it is there."""
    if self.recogniser is None or self.transcripts is None:
      return None
    if key not in self.transcripts:
      english = language == 'en'
      self.transcripts[key] = (
        self.recogniser(samples) if english else self.recogniser(samples, language)
      )
    return self.transcripts[key]


def _to_speech(heard: Heard) -> HeardSpeech:
  tokens = [
    {
      'text': token.text,
      'log_prob': token.log_prob,
      'alternatives': [list(pair) for pair in token.alternatives],
    }
    for token in heard.tokens
  ]
  clip = heard.embeddings.astype(np.float32)
  return HeardSpeech(clip, heard.transcript, None, tokens, heard.has_speech)


def _language(lang: str | None) -> str:
  """Return the two letters of a language such as 'en-US'; English is the default."""
  return (lang or 'en').lower().replace('_', '-').split('-')[0]
