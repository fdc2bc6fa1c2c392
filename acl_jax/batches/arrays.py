# SPDX-License-Identifier: Apache-2.0
"""The arrays of a batch, as each training step takes them."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int

from acl_jax.models.speech_llm import Prompt


class AudioBatch(NamedTuple):
  """Recordings of a batch: log-mel frames, or what a frozen encoder made of them.

  frame_index: where in its row the encoder frames of each recording are; -1 is nowhere.
  candidates: the entries of the vocabulary that this batch's softmax ranges over, and
  correction: what to add to their logits, for one that stands for several. `labels` are
    indices into blank and these. letters: the transcript as `spelling.sounded` has it.
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

  prefix: the text that every prompt begins with; `prompt` has what comes after it.
  targets: of every prompt of the row, one for each recording. index: the position in
  the row whose hidden state predicts each target.
  top_ids, top_log_probs: the teacher's n likeliest tokens at each target; n may be 0.
  """

  prefix: Int[Array, ' p']
  prompt: Prompt
  targets: Int[Array, 'b k r']
  index: Int[Array, 'b k r']
  weight: Float[Array, 'b k r']
  top_ids: Int[Array, 'b k r n']
  top_log_probs: Float[Array, 'b k r n']


class PretrainBatch(NamedTuple):
  """Rows of recordings, and their transcripts as CTC classes, `BLANK` behind.

  frame_index: where in its row the encoder frames of each recording are; -1 is nowhere.
  letters: of the transcripts; r is as many for each frame as `LetterHead` reads, or 0.
  """

  log_mel: Float[Array, 'b t m']
  segment_ids: Int[Array, 'b t']
  frame_index: Int[Array, 'b k u']
  labels: Int[Array, 'b k u']
  letters: Int[Array, 'b k r']
