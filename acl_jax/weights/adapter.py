# SPDX-License-Identifier: Apache-2.0
"""A trained adapter as one safetensors file, with its configuration in the header."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open

from acl_jax.models.adapters import StrideAdapter, StrideAdapterConfig
from acl_jax.models.ctc import CTCAdapter, CTCAdapterConfig
from acl_jax.weights import safetensors
from acl_jax.weights.table import Tensor

KINDS = {
  'ctc': (CTCAdapter, CTCAdapterConfig),
  'stride': (StrideAdapter, StrideAdapterConfig),
}


def save_adapter(
  path: str | Path, adapter: CTCAdapter | StrideAdapter, dtype=np.float32
) -> None:
  """Writes every parameter by its path; floating numbers as `dtype`."""
  state = nnx.to_flat_state(nnx.state(adapter))
  tensors = {}
  for name, variable in state:
    key = '/'.join(map(str, name))
    array = np.asarray(variable[...])
    if np.issubdtype(array.dtype, np.floating):
      with np.errstate(over='ignore'):  # it is looked at below
        array = array.astype(dtype)
      if not np.isfinite(array).all():
        raise ValueError(f'{path}: {key} is not finite as {np.dtype(dtype)}')
    tensors[key] = Tensor.of(array)
  kind = 'ctc' if isinstance(adapter, CTCAdapter) else 'stride'
  config = {'kind': kind, **dataclasses.asdict(adapter.config)}
  metadata = {'adapter': json.dumps(config)}
  safetensors.write_file(Path(path), [*tensors.items()], metadata)


def load_adapter(path: str | Path) -> CTCAdapter | StrideAdapter:
  """The adapter in a file of `save_adapter`, in float32. Every tensor is used once."""
  safetensors.check(Path(path))
  try:
    with safe_open(path, 'np') as file:
      config = json.loads((file.metadata() or {}).get('adapter', 'null'))
      tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  except (SafetensorError, OSError, ValueError) as error:
    raise ValueError(f'{path}: not a readable safetensors file ({error})') from None
  if not isinstance(config, dict) or str(config.get('kind')) not in KINDS:
    raise ValueError(f'{path}: its header describes no adapter')
  make, configure = KINDS[config.pop('kind')]
  try:
    settings = configure(**config)
    abstract = jax.eval_shape(lambda: make(settings, rngs=nnx.Rngs(0)))
  except (TypeError, ValueError) as error:
    raise ValueError(f'{path}: its header and this version disagree: {error}') from None
  graphdef, state = nnx.split(abstract)
  filled = {}
  for name, variable in nnx.to_flat_state(state):
    key = '/'.join(map(str, name))
    if key not in tensors:
      raise ValueError(f'{path}: {key} is missing')
    array = tensors.pop(key)
    if array.shape != variable.shape:
      raise ValueError(f'{path}: {key} has shape {array.shape}, not {variable.shape}')
    filled[name] = variable.replace(jnp.asarray(array, variable.dtype))
  if tensors:
    raise ValueError(f'{path}: nothing takes {sorted(tensors)}')
  return nnx.merge(graphdef, nnx.from_flat_state(filled))
