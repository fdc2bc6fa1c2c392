# SPDX-License-Identifier: Apache-2.0
"""From recordings to what the model's own ears make of them."""

import collections
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.runtime.rounding import round_up
from data_pipeline import audio
from data_pipeline.batches import pad_frames
from data_pipeline.corpora.utterance import BadUtterance, Utterance
from data_pipeline.features import HOP, SAMPLE_RATE, features

LENGTH_STEP = 400  # log-mel frames; a batch is padded to a multiple
FRAMES_PER_BATCH = 3_200


class EncodedUtterance(NamedTuple):
  """A recording: what the LLM reads in its place, and CTC's hard decision, if any."""

  clip: Float[np.ndarray, 'n e']
  transcript: str | None


def read_audio(
  model: SpeechLLM, utterance: Utterance
) -> Float32[np.ndarray, ' samples']:
  """Audio of no more than the encoder can hear; AudioError says what is wrong."""
  frames = model.encoder.config.max_frames
  return utterance.read(audio.Limits(seconds=frames * HOP / SAMPLE_RATE))


def log_mel(
  model: SpeechLLM, sound: Float32[np.ndarray, ' samples']
) -> Float[np.ndarray, 't m']:
  """What the encoder is given, at most as many frames as it takes."""
  encoder = model.encoder.config
  made = features(encoder.features).log_mel(sound, encoder.num_mel_bins)
  return made[: encoder.max_frames]


def encode_utterances(
  model: SpeechLLM,
  decode: Callable[[list[int]], str] | None,
  utterances: Sequence[Utterance],
  advance: Callable[[int], None],
) -> tuple[dict[str, EncodedUtterance], list[BadUtterance]]:
  """What is heard by id, and the recordings that cannot be.

  decode: writes out what `model.greedy` finds.
  """
  heard: dict[str, EncodedUtterance] = {}
  bad: list[BadUtterance] = []
  # Recordings wait until there is a batch of like length, so few of them are in memory.
  waiting: dict[int, list[tuple[str, np.ndarray]]] = collections.defaultdict(list)
  limit = model.encoder.config.max_frames

  def flush(length: int) -> None:
    found = waiting.pop(length)
    mels = [mel for _, mel in found]
    results = _hear_batch(model, decode, mels, min(length, limit))
    heard.update(zip((id for id, _ in found), results, strict=True))
    advance(len(found))

  for utterance in utterances:
    try:
      mel = log_mel(model, read_audio(model, utterance))
    except ValueError as error:
      bad.append(BadUtterance(utterance.id, 'audio', str(error)))
      advance(1)
      continue
    length = round_up(len(mel), LENGTH_STEP)
    waiting[length].append((utterance.id, mel))
    if len(waiting[length]) == _rows(length):
      flush(length)
  for length in list(waiting):
    flush(length)
  return heard, bad


def _rows(length: int) -> int:
  return max(1, FRAMES_PER_BATCH // length)


def _hear_batch(
  model: SpeechLLM,
  decode: Callable[[list[int]], str] | None,
  mels: Sequence[np.ndarray],
  length: int,
) -> list[EncodedUtterance]:
  rows = _rows(length)
  clips, seen, tokens = jax.device_get(_hear(model, *pad_frames(mels, rows, length)))
  return [
    EncodedUtterance(
      clips[row][seen[row]],
      None
      if tokens is None or decode is None
      else decode(tokens[row][tokens[row] >= 0].tolist()).strip(),
    )
    for row in range(len(mels))
  ]


@jax.jit
def _hear(
  model: SpeechLLM,
  log_mel: Float[Array, 'a t m'] | np.ndarray,
  valid: Bool[Array, 'a t'] | np.ndarray,
) -> tuple[Float[Array, 'a s e'], Bool[Array, 'a s'], Int[Array, 'a r'] | None]:
  frames, valid = model.encoder(jnp.asarray(log_mel), jnp.asarray(valid))
  clips, seen = model.adapt(frames, valid)
  return clips, seen, model.greedy(frames, valid)
