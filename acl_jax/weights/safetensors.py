# SPDX-License-Identifier: Apache-2.0
"""A folder of safetensors as Hugging Face lays it out: one file, or shards + index."""

import functools
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from acl_jax.weights.configuration import read_json
from acl_jax.weights.table import Tensor

FILE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
DTYPES = ('F64', 'F32', 'F16', 'BF16')
SHARD_BYTES = 4 << 30


def read(folder: Path, ignored: str | None = None) -> dict[str, Tensor]:
  """The tensors of all the shards in `folder`, by name; nothing is read yet.

  ignored: how the names end of those that nobody wants.
  """
  if not (folder / INDEX).is_file():
    return _read_file(folder / FILE, ignored)
  index = read_json(folder / INDEX).get('weight_map')
  if not isinstance(index, dict) or not all(isinstance(f, str) for f in index.values()):
    raise ValueError(f'{folder / INDEX}: weight_map does not map tensors to files')
  tensors = {}
  for name in sorted(set(index.values())):
    if Path(name).name != name:
      raise ValueError(f'{folder / INDEX}: {name!r} is not the name of a file here')
    tensors |= _read_file(folder / name, ignored)
  wanted = {name for name in index if not ignored or not name.endswith(ignored)}
  if strange := sorted(wanted ^ tensors.keys()):
    raise ValueError(f'{folder / INDEX}: it and the shards disagree about {strange[0]}')
  return tensors


def _read_file(path: Path, ignored: str | None) -> dict[str, Tensor]:
  if not path.is_file():
    raise FileNotFoundError(f'{path} is missing')
  try:  # the library compares header and size of the file
    file = safetensors.safe_open(path, 'np')
    names = [n for n in file.keys() if not ignored or not n.endswith(ignored)]  # noqa: SIM118
    slices = {name: file.get_slice(name) for name in names}
  except (safetensors.SafetensorError, OSError) as error:
    raise ValueError(f'{path}: damaged or not safetensors ({error})') from error
  for name, part in slices.items():
    if part.get_dtype() not in DTYPES:
      raise ValueError(f'{path}: {name} is {part.get_dtype()}, not one of {DTYPES}')
  return {
    name: Tensor(
      tuple(part.get_shape()),
      functools.partial(file.get_tensor, name),
      part.__getitem__,
    )
    for name, part in slices.items()
  }


def write(
  folder: Path, tensors: Iterable[tuple[str, np.ndarray]], limit: int = SHARD_BYTES
) -> None:
  """Writes shards of at most `limit` bytes, if no tensor is larger, and their index."""
  shards, shard = [], {}

  def flush():
    shards.append(list(shard))
    temporary = folder / f'{len(shards)}.tmp'
    safetensors.numpy.save_file(shard, temporary, metadata={'format': 'pt'})
    shard.clear()

  total = 0
  for name, tensor in tensors:
    if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > limit:
      flush()
    shard[name] = tensor
    total += tensor.nbytes
  flush()
  index = {}
  for number, names in enumerate(shards, 1):
    name = f'model-{number:05}-of-{len(shards):05}.safetensors'
    (folder / f'{number}.tmp').replace(folder / (name if len(shards) > 1 else FILE))
    index |= dict.fromkeys(names, name)
  if len(shards) > 1:
    index = {'metadata': {'total_size': total}, 'weight_map': index}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + '\n')
