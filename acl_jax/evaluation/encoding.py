# SPDX-License-Identifier: Apache-2.0
"""Encode utterances in batches: clips for the LLM, and CTC transcripts."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from acl_jax.batches.padded import group_by_length, pad_to_step
from acl_jax.hearing.hearing import Hearing
from acl_jax.models.speech_llm import SpeechLLM
from data_pipeline import audio
from data_pipeline.corpora.utterance import BadUtterance, Utterance
from data_pipeline.features import HOP, SAMPLE_RATE, Frontend
from data_pipeline.voice_activity import has_speech

LENGTH_MULTIPLE = 400  # log-mel frames
FRAMES_PER_BATCH = 3_200


class EncodedUtterance(NamedTuple):
  """Adapter output for one utterance.

  clip: Embeddings in the LLM's space. transcript: Greedy CTC decoding, if any.
  """

  clip: Float[np.ndarray, 'n e']
  transcript: str | None
  has_speech: bool = True


def read_audio(
  model: SpeechLLM, utterance: Utterance, hearing: Hearing | None = None
) -> Float32[np.ndarray, ' samples']:
  """Read the waveform; AudioError if it is unreadable or too long.

  hearing: sets the limit; None is that of the encoder.
  """
  if hearing is not None:
    seconds = hearing.max_seconds
  else:
    encoder = model.encoder.config
    seconds = (encoder.max_frames - encoder.trailing_silence) * HOP / SAMPLE_RATE
  return utterance.read(audio.Limits(seconds=seconds))


def compute_log_mel(
  model: SpeechLLM, waveform: Float32[np.ndarray, ' samples']
) -> Float[np.ndarray, 't m']:
  """Return the encoder's input features, truncated to its maximum length."""
  encoder = model.encoder.config
  return Frontend.of(encoder).log_mel(waveform)[: encoder.max_frames]


def encode_utterances(
  model: SpeechLLM,
  decode: Callable[[list[int]], str] | None,
  utterances: Sequence[Utterance],
  advance: Callable[[int], None],
  hearing: Hearing | None = None,
) -> tuple[dict[str, EncodedUtterance], list[BadUtterance]]:
  """Encode utterances in batches of similar length.

  Args:
    model: Encodes the audio.
    decode: Converts the token ids of `model.greedy` to text; None for no transcripts.
    utterances: Their ids must be unique.
    advance: Called with the number of utterances that were encoded or skipped.
    hearing: Hears utterances longer than one of its windows; None refuses those that
      are too long for the encoder.

  Returns:
    Encoded utterances by id, and the utterances whose audio cannot be used.
  """
  encoded: dict[str, EncodedUtterance] = {}
  bad: list[BadUtterance] = []
  speaks: dict[str, bool] = {}

  def read_log_mels() -> Iterator[tuple[str, np.ndarray]]:
    for utterance in utterances:
      try:
        waveform = read_audio(model, utterance, hearing)
        if hearing is not None and hearing.is_long(waveform):
          heard = hearing.hear(waveform)
          encoded[utterance.id] = EncodedUtterance(
            heard.embeddings, heard.transcript, heard.has_speech
          )
          advance(1)
          continue
        log_mel = compute_log_mel(model, waveform)
        speaks[utterance.id] = has_speech(waveform)
      except ValueError as error:
        bad.append(BadUtterance(utterance.id, 'audio', str(error)))
        advance(1)
        continue
      yield utterance.id, log_mel

  batches = group_by_length(
    read_log_mels(), lambda item: len(item[1]), FRAMES_PER_BATCH, LENGTH_MULTIPLE
  )
  for rows, batch in batches:
    ids, log_mels = zip(*batch, strict=True)
    results = _encode_batch(model, decode, log_mels, rows)
    encoded.update(
      (id, result._replace(has_speech=speaks[id]))
      for id, result in zip(ids, results, strict=True)
    )
    advance(len(batch))
  return encoded, bad


def _encode_batch(
  model: SpeechLLM,
  decode: Callable[[list[int]], str] | None,
  log_mels: Sequence[np.ndarray],
  rows: int,
) -> list[EncodedUtterance]:
  limit = model.encoder.config.max_frames
  padded = pad_to_step(log_mels, rows, limit, LENGTH_MULTIPLE)
  clips, clip_mask, tokens = jax.device_get(_encode(model, *padded))
  encoded = []
  for row in range(len(log_mels)):
    transcript = None
    if tokens is not None and decode is not None:
      transcript = decode(tokens[row][tokens[row] >= 0].tolist()).strip()
    encoded.append(EncodedUtterance(clips[row][clip_mask[row]], transcript))
  return encoded


@jax.jit
def _encode(
  model: SpeechLLM,
  log_mel: Float[Array, 'a t m'] | np.ndarray,
  frame_mask: Bool[Array, 'a t'] | np.ndarray,
) -> tuple[Float[Array, 'a s e'], Bool[Array, 'a s'], Int[Array, 'a r'] | None]:
  frames, frame_mask = model.encoder(jnp.asarray(log_mel), jnp.asarray(frame_mask))
  heard = model.recognise(frames, frame_mask)
  return heard.embeddings, heard.mask, heard.tokens and heard.tokens.ids
