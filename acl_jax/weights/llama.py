# SPDX-License-Identifier: Apache-2.0
"""Loads a Llama from any of the formats it is published in, and saves it as one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from acl_jax.models import llama
from acl_jax.models.int8 import quantise_one
from acl_jax.runtime.files import sha256
from acl_jax.sharding.rules import PARAMETERS, ShardingRules
from acl_jax.weights import gguf, huggingface, meta, safetensors, table
from acl_jax.weights.configuration import sizes
from acl_jax.weights.table import Tensor


class Source(NamedTuple):
  """A Llama on disk, in whatever format: its weights are not read yet."""

  config: llama.LlamaConfig
  rows: Sequence[table.Row]
  tensors: Mapping[str, Tensor]
  files: list[Path]  # that have the weights


def open_llama(path: str | Path) -> Source:
  """The model in a Hugging Face folder, a GGUF file or a folder as Meta ships it."""
  path = Path(path)
  if path.is_file():
    form, files = gguf, [path]
  elif (path / huggingface.CONFIG).is_file():
    form, files = huggingface, safetensors.files(path)
  elif (path / meta.CONFIG).is_file():
    form, files = meta, sorted(path.glob('*.pth'))
  else:
    raise FileNotFoundError(
      f'{path} is neither a GGUF file nor a folder with {huggingface.CONFIG}'
      f' (Hugging Face) or {meta.CONFIG} (Meta)'
    )
  config, tensors = form.open_llama(path)
  return Source(config, _rows(form.LLAMA, config), tensors, files)


def sha256_of_files(source: Source) -> dict[str, str]:
  """The name and the sha256 of each file of weights."""
  return {path.name: sha256(path) for path in source.files}


def load_llama(
  path: str | Path, dtype: DTypeLike = jnp.float32, rules: ShardingRules = PARAMETERS
) -> llama.Llama:
  """The model that `open_llama` finds.

  dtype: int8 is for its matrices; the others are bfloat16, and so it computes.
  rules: how it is cut, where a mesh is set.
  """
  source, small = open_llama(path), dtype == jnp.int8
  config = source.config
  return table.fill(
    jax.eval_shape(lambda: llama.Llama(config, rngs=nnx.Rngs(0))),
    source.rows,
    source.tensors,
    sizes(config),
    source=str(path),
    dtype=jnp.bfloat16 if small else dtype,
    rules=rules,
    convert=quantise_one if small else None,
  )


def as_huggingface(source: Source) -> list[tuple[str, Tensor]]:
  """The tensors by Hugging Face's names and layouts, not read yet."""
  letters, files = sizes(source.config), str(source.files[0])
  table.compare(source.rows, source.tensors, letters, files)
  rows = _rows(huggingface.LLAMA, source.config)
  return [*table.translate(source.tensors, source.rows, rows, letters)]


def save_llama_hf(model: llama.Llama, folder: str | Path) -> None:
  """Writes a folder that `load_llama` and Transformers read, in the model's dtype."""
  folder, config = Path(folder), model.config
  folder.mkdir(parents=True, exist_ok=True)
  tensors = table.export(model, _rows(huggingface.LLAMA, config), sizes(config))
  dtype = str(model.embed_tokens[...].dtype)
  huggingface.write_llama(folder, config, tensors, dtype)


def _rows(rows: tuple[table.Row, ...], config: llama.LlamaConfig) -> list[table.Row]:
  """The rows of the parameters that there are: tied embeddings have no lm_head."""
  return [row for row in rows if row[1] != 'lm_head' or not config.tie_word_embeddings]
