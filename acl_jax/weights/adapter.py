# SPDX-License-Identifier: Apache-2.0
"""Saves and loads an adapter: a safetensors file with its config in the header."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open

from acl_jax.models.adapters import StrideAdapter, StrideAdapterConfig
from acl_jax.models.attention_adapter import AttentionAdapter, AttentionAdapterConfig
from acl_jax.models.ctc import CTCAdapter, CTCAdapterConfig
from acl_jax.models.lora import LoRAConfig, apply_lora, find_lora_config
from acl_jax.models.protocols import Adapter
from acl_jax.weights import safetensors
from acl_jax.weights.tensor import Tensor

KINDS = {
  'ctc': (CTCAdapter, CTCAdapterConfig),
  'stride': (StrideAdapter, StrideAdapterConfig),
  'attention': (AttentionAdapter, AttentionAdapterConfig),
}


def save_adapter(path: str | Path, adapter: Adapter, dtype=np.float32) -> None:
  """Write all parameters to a safetensors file, keyed by their path in the module.

  dtype: of the floating-point parameters; integer parameters keep theirs.
  Raises ValueError if a parameter is not finite in `dtype`.
  """
  tensors = {}
  for path_in_module, variable in nnx.to_flat_state(nnx.state(adapter)):
    key = '/'.join(map(str, path_in_module))
    array = np.asarray(variable[...])
    if np.issubdtype(array.dtype, np.floating):
      with np.errstate(over='ignore'):  # checked below
        array = array.astype(dtype)
      if not np.isfinite(array).all():
        raise ValueError(
          f'{path}: {key} has values that are not finite in {np.dtype(dtype)}'
        )
    tensors[key] = Tensor.from_array(array)
  config = {'kind': adapter.kind, **dataclasses.asdict(adapter.config)}
  metadata = {'adapter': json.dumps(config)}
  module: Any = adapter
  if lora := find_lora_config(module):
    metadata['lora'] = json.dumps(dataclasses.asdict(lora))
  safetensors.write_file(Path(path), [*tensors.items()], metadata)


def load_adapter(path: str | Path) -> Adapter:
  """Load a file that `save_adapter` wrote, in float32.

  Raises ValueError if the checksum, the header, or the names or shapes of the tensors
  are wrong; every tensor of the file must be used.
  """
  safetensors.verify_checksum(Path(path))
  try:
    with safe_open(path, 'np') as file:
      metadata = file.metadata() or {}
      config, lora = (json.loads(metadata.get(x, 'null')) for x in ('adapter', 'lora'))
      tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  except (SafetensorError, OSError, ValueError) as error:
    raise ValueError(f'{path}: not a readable safetensors file ({error})') from None
  if not isinstance(config, dict) or str(config.get('kind')) not in KINDS:
    raise ValueError(
      f'{path}: the header has no `adapter` of kind {" or ".join(KINDS)}'
    )
  adapter_class, config_class = KINDS[config.pop('kind')]
  try:
    adapter_config = config_class(**config)
    lora_config = _parse_lora(lora) if lora is not None else None
    create = functools.partial(_create, adapter_class, adapter_config, lora_config)
    abstract = jax.eval_shape(create)
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'{path}: the `adapter` in the header is not valid: {error}'
    ) from None
  graphdef, state = nnx.split(abstract)
  loaded = {}
  for path_in_module, variable in nnx.to_flat_state(state):
    key = '/'.join(map(str, path_in_module))
    if key not in tensors:
      raise ValueError(f'{path}: tensor {key} is missing')
    array = tensors.pop(key)
    if array.shape != variable.shape:
      raise ValueError(
        f'{path}: tensor {key} has shape {array.shape}; the configuration requires'
        f' {variable.shape}'
      )
    loaded[path_in_module] = variable.replace(jnp.asarray(array, variable.dtype))
  if tensors:
    raise ValueError(f'{path}: unexpected tensors {sorted(tensors)}')
  return nnx.merge(graphdef, nnx.from_flat_state(loaded))


def _parse_lora(fields: dict[str, Any]) -> LoRAConfig:
  targets = tuple(map(str, fields.pop('targets')))
  return LoRAConfig(**fields, targets=targets)


def _create(adapter_class: Any, config: Any, lora: LoRAConfig | None) -> Any:
  adapter = adapter_class(config, rngs=nnx.Rngs(0))
  return apply_lora(adapter, lora, rngs=nnx.Rngs(0)) if lora else adapter
