# SPDX-License-Identifier: Apache-2.0
"""Weights in int8 or int4: a quarter or an eighth of float32's memory and reads."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from acl_jax.models.llama import Llama
from acl_jax.models.matrices import GroupedMatrix, QuantisedMatrix

# The axes that a matrix product contracts; in int8 every other index has its own scale.
REDUCED_AXES = {
  'q_proj': (-3,),
  'k_proj': (-3,),
  'v_proj': (-3,),
  'o_proj': (-3, -2),
  'gate_proj': (-2,),
  'up_proj': (-2,),
  'down_proj': (-2,),
  'embed_tokens': (-1,),  # of the tied LM head; a scale per row also fits a lookup
  'lm_head': (-2,),
}
ALWAYS_INT8 = ('embed_tokens', 'lm_head')  # every token's logits depend on them
GROUP_SIZE = 32  # weights with a common scale in int4, which is 4.5 bits a weight
DTYPES = ('int8', 'int4')


def is_quantised(dtype: DTypeLike) -> bool:
  """Return whether a dtype of weights stands for quantised matrices."""
  return jnp.dtype(dtype).name in DTYPES


def quantise(llama: Llama, dtype: DTypeLike = jnp.int8) -> Llama:
  """Quantise the matrices of a model to int8 or int4, in place, and return it."""
  for module in (llama, llama.layers.self_attn, llama.layers.mlp):
    for name in REDUCED_AXES.keys() & vars(module).keys():
      param = getattr(module, name)
      delattr(module, name)  # only one matrix at a time exists twice
      setattr(module, name, quantise_parameter(name, param, dtype))
  return llama


def quantise_parameter(
  name: str, param: nnx.Variable, dtype: DTypeLike = jnp.int8
) -> nnx.Variable | QuantisedMatrix | GroupedMatrix:
  """Quantise a matrix to int8 or int4; return any other parameter unchanged.

  The embeddings and the output are int8 in any case.
  """
  if name not in REDUCED_AXES:
    return param
  axes = REDUCED_AXES[name]
  if dtype == jnp.int4 and name not in ALWAYS_INT8:
    return GroupedMatrix(param, axes[-1], GROUP_SIZE)
  return QuantisedMatrix(param, axes)
