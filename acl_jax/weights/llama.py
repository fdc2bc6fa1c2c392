# SPDX-License-Identifier: Apache-2.0
"""Loads a Llama from any of the formats it is published in, and saves it as one."""

from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from acl_jax.models import llama
from acl_jax.models.int8 import quantise_one
from acl_jax.parallel.sharding import PARAMETERS, Rules
from acl_jax.weights import gguf, huggingface, meta, table
from acl_jax.weights.configuration import sizes


def load_llama(
  path: str | Path, dtype: DTypeLike = jnp.float32, rules: Rules = PARAMETERS
) -> llama.Llama:
  """The model in a Hugging Face folder, a GGUF file or a folder as Meta ships it.

  dtype: int8 is for its matrices; the others are bfloat16, and so it computes.
  rules: how it is cut, where a mesh is set.
  """
  path, small = Path(path), dtype == jnp.int8
  if path.is_file():
    form = gguf
  elif (path / huggingface.CONFIG).is_file():
    form = huggingface
  elif (path / meta.CONFIG).is_file():
    form = meta
  else:
    raise FileNotFoundError(
      f'{path} is neither a GGUF file nor a folder with {huggingface.CONFIG}'
      f' (Hugging Face) or {meta.CONFIG} (Meta)'
    )
  config, tensors = form.open_llama(path)
  return table.fill(
    jax.eval_shape(lambda: llama.Llama(config, rngs=nnx.Rngs(0))),
    _rows(form.LLAMA, config),
    tensors,
    sizes(config),
    source=str(path),
    dtype=jnp.bfloat16 if small else dtype,
    rules=rules,
    convert=quantise_one if small else None,
  )


def save_llama_hf(model: llama.Llama, folder: str | Path) -> None:
  """Writes a folder that `load_llama` and Transformers read, in the model's dtype."""
  folder, config = Path(folder), model.config
  folder.mkdir(parents=True, exist_ok=True)
  tensors = table.export(model, _rows(huggingface.LLAMA, config), sizes(config))
  dtype = str(model.embed_tokens[...].dtype)
  huggingface.write_llama(folder, config, tensors, dtype)


def _rows(rows: tuple[table.Row, ...], config: llama.Config) -> list[table.Row]:
  """The rows of the parameters that there are: tied embeddings have no lm_head."""
  return [row for row in rows if row[1] != 'lm_head' or not config.tie_word_embeddings]
