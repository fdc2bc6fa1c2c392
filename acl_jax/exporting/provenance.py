# SPDX-License-Identifier: Apache-2.0
"""Which files a model was made of, and whether a report is about these."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from acl_jax.models import llama
from acl_jax.runtime.files import read_json, sha256
from acl_jax.weights import table
from acl_jax.weights.configuration import sizes
from acl_jax.weights.fingerprint import checksum, fingerprint, line
from acl_jax.weights.llama import Source


def describe_llm(source: Source, dtype: DTypeLike) -> dict[str, Any]:
  """As `fingerprint.describe` of the loaded model, a layer in memory at a time."""
  config, dtype = source.config, np.dtype(dtype)
  letters = sizes(config)
  table.compare(source.rows, source.tensors, letters, str(source.files[0]))
  abstract = jax.eval_shape(lambda: llama.Llama(config, rngs=nnx.Rngs(0)))
  leaves = jax.tree_util.tree_leaves_with_path(abstract)

  def lines() -> Iterator[bytes]:
    for path, value in leaves:
      ours = jax.tree_util.keystr(path[:-1], simple=True, separator='/')
      layers = table.read_ours(source.tensors, source.rows, ours, letters)
      sums = sum(
        checksum(jnp.asarray(layer.astype(dtype)), number)
        for number, layer in enumerate(layers)
      )
      yield line(path, value.update(dtype=dtype), jnp.asarray(sums))

  count = sum(value.size for _, value in leaves)
  return {'parameters': count, 'dtype': str(dtype), 'sha256': fingerprint(lines())}


def read_report(
  path: Path, adapter: Path, source: Source, dtype: DTypeLike
) -> dict[str, Any]:
  """A report of `acl_jax.evaluate`; ValueError if it is about another model.

  dtype: that the LLM was evaluated in. Of one in 8 bits the report is believed.
  """
  report = read_json(path)
  model = report.get('model')
  if not isinstance(model, dict) or 'response_nll' not in report:
    raise ValueError(f'{path}: not a report of acl_jax.evaluate')
  ours = {'adapter': sha256(adapter)}
  if dtype != 'int8':
    ours['llm'] = describe_llm(source, dtype)['sha256']
  for part, found in ours.items():
    if (said := (model.get(part) or {}).get('sha256')) != found:
      raise ValueError(
        f'{path}: is about another {part}, of sha256 {said}; the one to export has'
        f' {found}'
      )
  return report
