# SPDX-License-Identifier: Apache-2.0
"""The sizes and options of Llama and its siblings."""

import dataclasses
import math

from acl_jax.models.rope import Rope, RopeScaling
from acl_jax.models.sizes import check_multiple


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
  """Sizes and options of a model, by Hugging Face's names where it has them."""

  vocab_size: int
  hidden_size: int
  intermediate_size: int
  num_hidden_layers: int
  num_attention_heads: int
  num_key_value_heads: int
  head_dim: int
  rope_theta: float
  rms_norm_eps: float
  tie_word_embeddings: bool
  max_position_embeddings: int
  rope_scaling: RopeScaling | None = None  # for positions beyond training
  attention_bias: bool = False  # of queries, keys and values; the output has none
  qk_norm: bool = False  # normalise each head of queries and keys before rotation
  no_rope_layers: tuple[int, ...] = ()  # indices of layers without rotation
  sliding_window: int | None = None  # keys that a query sees, its own included
  full_attention_layers: tuple[int, ...] = ()  # indices of layers without the window
  model_type: str = 'llama'  # Hugging Face's name of the family

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if type(value) in (int, float) and not 0 < value < math.inf:
        raise ValueError(f'{field.name} = {value} is not a positive finite number')
    for name in ('no_rope_layers', 'full_attention_layers'):
      layers = range(self.num_hidden_layers)  # not a set: the number is not checked yet
      if any(layer not in layers for layer in getattr(self, name)):
        raise ValueError(
          f'{name} = {getattr(self, name)} names layers that do not exist; there are'
          f' {self.num_hidden_layers}'
        )
    check_multiple(self, 'num_attention_heads', 'num_key_value_heads')
    if self.head_dim % 2:
      raise ValueError(f'head_dim = {self.head_dim} is odd; rotations need pairs')
    self.rope  # noqa: B018 checks itself

  @property
  def rope(self) -> Rope:
    """The rotary position embeddings."""
    c = self
    return Rope(c.head_dim, c.rope_theta, c.max_position_embeddings, c.rope_scaling)
