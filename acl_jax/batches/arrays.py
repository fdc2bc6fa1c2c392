# SPDX-License-Identifier: Apache-2.0
"""The arrays of a batch, as the training steps take them."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int

from acl_jax.models.speech_llm import Prompt


class AudioBatch(NamedTuple):
  """Utterances of a batch and their CTC labels.

  frames: log-mel frames, or encoder frames from a frozen encoder. segment_ids: 1, 2, …
  for the utterances of a row; 0 is padding. frame_index: positions in the row of each
  utterance's encoder frames, padded with -1. labels: indices into the blank followed by
  `candidates`, which are the vocabulary entries of this batch's sampled softmax.
  logit_correction: added to the logits of the blank and the candidates, because a
  sampled candidate stands for several entries. letters: transcripts from
  `spelling.encode_letters`.
  """

  frames: Float[Array, 'b t d']
  segment_ids: Int[Array, 'b t']
  frame_index: Int[Array, 'b k u']
  labels: Int[Array, 'b k n']
  letters: Int[Array, 'b k l']
  candidates: Int[Array, ' w']
  logit_correction: Float[Array, ' c']


class ResponseBatch(NamedTuple):
  """Prompts of a batch and the responses to imitate.

  prefix: tokens that all prompts share; `prompt` holds the rest of each. targets:
  response tokens of each utterance in a row. index: position in the row whose hidden
  state predicts each target. weight: 1 for a target, 0 for padding. top_ids,
  top_log_probs: the teacher's n likeliest tokens at each target; n may be 0.
  """

  shared_prefix: Int[Array, ' p']
  prompt: Prompt
  targets: Int[Array, 'b k r']
  index: Int[Array, 'b k r']
  weight: Float[Array, 'b k r']
  top_ids: Int[Array, 'b k r n']
  top_log_probs: Float[Array, 'b k r n']


class PretrainBatch(NamedTuple):
  """Packed utterances and their transcripts as CTC classes, padded with `BLANK`.

  frame_index: positions in the row of each utterance's encoder frames, padded with -1.
  letters: transcripts from `spelling.encode_letters`; r is u times the letter frames
  per encoder frame of `LetterHead`, which may be 0.
  """

  log_mel: Float[Array, 'b t m']
  segment_ids: Int[Array, 'b t']
  frame_index: Int[Array, 'b k u']
  labels: Int[Array, 'b k u']
  letters: Int[Array, 'b k r']
