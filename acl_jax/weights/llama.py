# SPDX-License-Identifier: Apache-2.0
"""Loads a Llama from any of its published formats; saves it in Hugging Face's."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from acl_jax.models import llama
from acl_jax.models.quantisation import is_quantised, quantise_parameter
from acl_jax.runtime.files import sha256
from acl_jax.sharding.rules import PARAMETERS, ShardingRules
from acl_jax.weights import gguf, huggingface, meta, safetensors, table
from acl_jax.weights.configuration import llama_axis_sizes
from acl_jax.weights.tensor import Tensor


class Source(NamedTuple):
  """A Llama on disk, in any format; its weights are not read yet."""

  config: llama.LlamaConfig
  rows: Sequence[table.Row]
  tensors: Mapping[str, Tensor]
  files: list[Path]  # those that hold the weights


def open_llama(path: str | Path) -> Source:
  """Open a Hugging Face folder, a GGUF file or a Meta folder, without its weights."""
  path = Path(path)
  if path.is_file():
    file_format, files = gguf, [path]
  elif (path / huggingface.CONFIG).is_file():
    file_format, files = huggingface, safetensors.weight_files(path)
  elif (path / meta.CONFIG).is_file():
    file_format, files = meta, sorted(path.glob('[!.]*.pth'))
  else:
    raise FileNotFoundError(
      f'{path} is neither a GGUF file nor a folder with {huggingface.CONFIG}'
      f' (Hugging Face) or {meta.CONFIG} (Meta)'
    )
  config, tensors = file_format.read_llama(path)
  rows = gguf.llama_rows(config) if file_format is gguf else file_format.LLAMA
  return Source(config, rows_in_use(rows, config), tensors, files)


def sha256_of_files(source: Source) -> dict[str, str]:
  """Return the SHA-256 of each weight file, by file name."""
  return {path.name: sha256(path) for path in source.files}


def load_llama(
  path: str | Path, dtype: DTypeLike = jnp.float32, rules: ShardingRules = PARAMETERS
) -> llama.Llama:
  """Load a Llama from any format that `open_llama` supports.

  dtype: of the parameters; int8 and int4 quantise the matrices and keep everything
    else, the computation included, in bfloat16.
  rules: the sharding of the parameters if a mesh is set.
  """
  source, quantised = open_llama(path), is_quantised(dtype)
  config = source.config
  return table.import_tensors(
    jax.eval_shape(lambda: llama.Llama(config, rngs=nnx.Rngs(0))),
    source.rows,
    source.tensors,
    llama_axis_sizes(config),
    source=str(path),
    dtype=jnp.bfloat16 if quantised else dtype,
    rules=rules,
    convert=functools.partial(quantise_parameter, dtype=dtype) if quantised else None,
  )


def convert_to_huggingface(source: Source) -> list[tuple[str, Tensor]]:
  """Return the tensors with Hugging Face's names and layouts; not read yet."""
  sizes = llama_axis_sizes(source.config)
  table.check_tensors(source.rows, source.tensors, sizes, str(source.files[0]))
  rows = rows_in_use(huggingface.LLAMA, source.config)
  return [*table.convert_tensors(source.tensors, source.rows, rows, sizes)]


def llama_names(model: llama.Llama) -> table.Names:
  """Return the names of a model's parameters in Transformers."""
  rows = rows_in_use(huggingface.LLAMA, model.config)
  return table.Names(rows, llama_axis_sizes(model.config))


def save_llama(model: llama.Llama, folder: str | Path) -> None:
  """Write a folder that `load_llama` and Transformers read, in the model's dtype."""
  folder, config = Path(folder), model.config
  folder.mkdir(parents=True, exist_ok=True)
  rows = rows_in_use(huggingface.LLAMA, config)
  tensors = table.export_tensors(model, rows, llama_axis_sizes(config))
  dtype = str(model.embed_tokens[...].dtype)
  huggingface.write_llama(folder, config, tensors, dtype)


def rows_in_use(
  rows: tuple[table.Row, ...], config: llama.LlamaConfig
) -> list[table.Row]:
  """Return the rows of parameters that the model has: no `lm_head` if it is tied."""
  has = {
    'lm_head': not config.tie_word_embeddings,
    'q_bias': config.attention_bias,
    'k_bias': config.attention_bias,
    'v_bias': config.attention_bias,
    'q_norm': config.qk_norm,
    'k_norm': config.qk_norm,
  }
  return [row for row in rows if has.get(row[1].rsplit('/', 1)[-1], True)]
