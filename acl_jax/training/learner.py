# SPDX-License-Identifier: Apache-2.0
"""What learns in CTC pretraining: a model, and heads beside it that nobody keeps."""

from collections.abc import Sequence

import jax.numpy as jnp
import ml_collections
from flax import nnx

from acl_jax.models.batch_norm import RunningAverage
from acl_jax.models.conformer import ConformerConfig
from acl_jax.models.conformer_ctc import ConformerCTC, LetterHead, SpellingHead
from acl_jax.models.spelling import letters_of


class Learner(nnx.Module):
  """What learns: the model, and what helps it, if anything does."""

  def __init__(
    self,
    model: ConformerCTC,
    letters: LetterHead | None = None,
    spelling: SpellingHead | None = None,
  ):
    self.model, self.letters, self.spelling = model, letters, spelling

  def recogniser(self, pieces: Sequence[str]) -> ConformerCTC:
    """The model, its head told how the pieces are spelt; changes `model`."""
    if self.spelling is not None:
      head = self.model.ctc_head
      head.weight[...] += self.spelling(jnp.asarray(letters_of(pieces)))
    return self.model


def new_heads(
  stage: ml_collections.ConfigDict, encoder: ConformerConfig, seed: int
) -> tuple[LetterHead | None, SpellingHead | None]:
  """What `config.ctc` wants beside a model, untrained."""
  size, letters, spelling = encoder.hidden_size, None, None
  layer, per_frame = stage.letters.layer, stage.letters.per_frame
  for name, value in (
    ('letters.per_frame', per_frame),
    ('spelling_size', stage.spelling_size),
  ):
    if value < 0:
      raise ValueError(f'config.ctc.{name} = {value}; 0 is none')
  if per_frame:
    if not 0 < layer <= encoder.num_hidden_layers:
      raise ValueError(
        f'config.ctc.letters.layer = {layer}; the encoder has layers 1 to'
        f' {encoder.num_hidden_layers}'
      )
    letters = LetterHead(size, per_frame, rngs=nnx.Rngs(seed))
  if stage.spelling_size:
    spelling = SpellingHead(size, stage.spelling_size, rngs=nnx.Rngs(seed))
  return letters, spelling


def split(learner: Learner):
  """The graph of a learner, what trains, and its batch-norm statistics."""
  return nnx.split(learner, nnx.Param, RunningAverage)
