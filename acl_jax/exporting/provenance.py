# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of the parts of a model, and reports checked against them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from acl_jax.models import llama
from acl_jax.models.quantisation import is_quantised
from acl_jax.runtime.files import read_json, sha256
from acl_jax.weights import table
from acl_jax.weights.configuration import llama_axis_sizes
from acl_jax.weights.fingerprint import checksum, fingerprint, manifest_line
from acl_jax.weights.llama import Source


def fingerprint_llm(source: Source, dtype: DTypeLike) -> dict[str, Any]:
  """Return `fingerprint.describe` of the loaded LLM; holds one layer in memory."""
  config, dtype = source.config, np.dtype(dtype)
  sizes = llama_axis_sizes(config)
  table.check_tensors(source.rows, source.tensors, sizes, str(source.files[0]))
  abstract = jax.eval_shape(lambda: llama.Llama(config, rngs=nnx.Rngs(0)))
  leaves = jax.tree_util.tree_leaves_with_path(abstract)

  def manifest_lines() -> Iterator[bytes]:
    for path, value in leaves:
      name = jax.tree_util.keystr(path[:-1], simple=True, separator='/')
      layers = table.import_layers(source.tensors, source.rows, name, sizes)
      total = sum(
        checksum(jnp.asarray(layer.astype(dtype)), index)
        for index, layer in enumerate(layers)
      )
      yield manifest_line(path, value.update(dtype=dtype), jnp.asarray(total))

  count = sum(value.size for _, value in leaves)
  return {
    'parameters': count,
    'dtype': str(dtype),
    'sha256': fingerprint(manifest_lines()),
  }


def read_report(
  path: Path, adapter: Path, source: Source, dtype: DTypeLike
) -> dict[str, Any]:
  """Read a report of `acl_jax.evaluate`; ValueError if it is about another model.

  dtype: of the LLM when it was evaluated; a quantised LLM is not compared.
  """
  report = read_json(path)
  model = report.get('model')
  if not isinstance(model, dict) or 'response_nll' not in report:
    raise ValueError(f'{path}: not a report of acl_jax.evaluate')
  expected = {'adapter': sha256(adapter)}
  if not is_quantised(dtype):
    expected['llm'] = fingerprint_llm(source, dtype)['sha256']
  for part, value in expected.items():
    reported = (model.get(part) or {}).get('sha256')
    if reported != value:
      raise ValueError(
        f'{path}: is about another {part}, with sha256 {reported}; the {part} to export'
        f' has {value}'
      )
  return report
