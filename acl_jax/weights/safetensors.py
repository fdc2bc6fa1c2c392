# SPDX-License-Identifier: Apache-2.0
"""Reads and writes a folder of safetensors: one file, or shards with an index.

The layout is Hugging Face's; files are read and written one tensor at a time. Files
written here store the SHA-256 of their data in the header. The format:
https://github.com/huggingface/safetensors
"""

import functools
import hashlib
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from acl_jax.runtime.files import read_json, replace_atomically
from acl_jax.weights.sharded_read import Index
from acl_jax.weights.tensor import Tensor

FILE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
WEIGHTS = {
  'F64': np.dtype(np.float64),
  'F32': np.dtype(np.float32),
  'F16': np.dtype(np.float16),
  'BF16': np.dtype(ml_dtypes.bfloat16),
}
DTYPES = WEIGHTS | {
  'I64': np.dtype(np.int64),
  'I32': np.dtype(np.int32),
  'U8': np.dtype(np.uint8),
}
SHARD_BYTES = 4 << 30
SHA256 = 'sha256'  # metadata key: the digest of the data
_CHUNK = 1 << 20


def read(
  folder: Path,
  ignored_suffix: str | None = None,
  dtypes: Mapping[str, np.dtype] = WEIGHTS,
) -> dict[str, Tensor]:
  """Return the tensors of all shards, by name; they are not read yet.

  ignored_suffix: tensors whose names end in it are skipped.
  dtypes: the allowed types, by their names in safetensors.
  """
  tensors, files = {}, {}
  index = _read_index(folder) if (folder / INDEX).is_file() else {}
  for path in weight_files(folder):
    for name, tensor in read_file(path, ignored_suffix, dtypes).items():
      if index.get(name, path.name) != path.name:
        continue  # a copy; the index says which file counts
      if name in files:
        raise ValueError(f'{folder}: {name} is in {files[name]} and in {path.name}')
      tensors[name], files[name] = tensor, path.name
  names = set(index)
  if ignored_suffix:
    names = {name for name in names if not name.endswith(ignored_suffix)}
  if index and (unmatched := sorted(names ^ tensors.keys())):
    raise ValueError(
      f'{folder / INDEX}: weight_map and the shards disagree about {unmatched[0]}'
    )
  return tensors


def weight_files(folder: Path) -> list[Path]:
  """Return the path of the single file, or those of the shards.

  Shards need no index: without one they are all those of which names tell the number.
  """
  if not (folder / INDEX).is_file():
    return [folder / FILE] if (folder / FILE).is_file() else _unindexed_shards(folder)
  names = sorted(set(_read_index(folder).values()))
  for name in names:
    if Path(name).name != name:
      raise ValueError(f'{folder / INDEX}: {name!r} is not a file name')
  return [folder / name for name in names]


def _unindexed_shards(folder: Path) -> list[Path]:
  """Return all shards of a folder without an index, or the single file it lacks."""
  shards = sorted(folder.glob('model-*-of-*.safetensors'))
  if not shards:
    return [folder / FILE]
  total = shards[0].stem.rpartition('-')[2]
  if not total.isdecimal() or len(total) > 5:
    raise ValueError(f'{shards[0]}: the name does not tell the number of shards')
  for i in range(1, int(total) + 1):
    path = folder / f'model-{i:05}-of-{total}.safetensors'
    if path not in shards:
      raise FileNotFoundError(f'{path} is missing')
  if len(shards) > int(total):
    raise ValueError(
      f'{folder}: there are {len(shards)} shards, more than {int(total)}'
    )
  return shards


def _read_index(folder: Path) -> dict[str, str]:
  index = read_json(folder / INDEX).get('weight_map')
  if not isinstance(index, dict) or not all(isinstance(f, str) for f in index.values()):
    raise ValueError(f'{folder / INDEX}: weight_map is not a map from tensors to files')
  return index


def _open(path: Path):
  if not path.is_file():
    raise FileNotFoundError(f'{path} is missing')
  try:  # the library checks the header against the file size
    return safetensors.safe_open(path, 'np')
  except (safetensors.SafetensorError, OSError) as error:
    raise ValueError(f'{path}: damaged, or not safetensors ({error})') from error


def read_file(
  path: Path,
  ignored_suffix: str | None = None,
  dtypes: Mapping[str, np.dtype] = WEIGHTS,
) -> dict[str, Tensor]:
  """As `read`, of one file."""
  tensors = {}
  with _open(path) as file:
    for name in file.keys():  # noqa: SIM118
      if ignored_suffix and name.endswith(ignored_suffix):
        continue
      info = file.get_slice(name)
      if (dtype := info.get_dtype()) not in dtypes:
        raise ValueError(f'{path}: {name} is {dtype}, not one of {tuple(dtypes)}')
      tensors[name] = Tensor(
        tuple(info.get_shape()),
        functools.partial(_read_tensor, path, name),
        dtypes[dtype],
        functools.partial(_read_slice, path, name),
      )
  return tensors


def _read_tensor(path: Path, name: str) -> np.ndarray:
  # Open the file each time: the pages of an open one stay in the process's memory.
  with _open(path) as file:
    return file.get_tensor(name)


def _read_slice(path: Path, name: str, index: Index) -> np.ndarray:
  with _open(path) as file:
    return file.get_slice(name)[index]


def read_metadata(path: Path) -> dict[str, str]:
  """Return the metadata in the header of a file."""
  with _open(path) as file:
    return file.metadata() or {}


def verify_checksum(path: Path) -> None:
  """Raise ValueError if the header has a SHA-256 that the data do not match."""
  expected = read_metadata(path).get(SHA256)
  if expected is None:
    return
  digest = hashlib.sha256()
  with path.open('rb') as file:
    file.seek(8 + struct.unpack('<Q', file.read(8))[0])
    while chunk := file.read(_CHUNK):
      digest.update(chunk)
  if digest.hexdigest() != expected:
    raise ValueError(
      f'{path}: has changed since it was saved: the sha256 of its data is'
      f' {digest.hexdigest()}, not {expected}'
    )


def write(
  folder: Path, tensors: Iterable[tuple[str, Tensor]], limit: int = SHARD_BYTES
) -> None:
  """Write one file, or shards of at most `limit` bytes and their index.

  A tensor larger than `limit` gets a shard of its own.
  """
  shards: list[list[tuple[str, Tensor]]] = [[]]
  total_size = shard_size = 0
  for name, tensor in tensors:
    if shards[-1] and shard_size + tensor.nbytes > limit:
      shards.append([])
      shard_size = 0
    shards[-1].append((name, tensor))
    shard_size += tensor.nbytes
    total_size += tensor.nbytes
  index = {}
  for number, shard in enumerate(shards, 1):
    name = f'model-{number:05}-of-{len(shards):05}.safetensors'
    write_file(folder / (name if len(shards) > 1 else FILE), shard)
    index |= dict.fromkeys((tensor for tensor, _ in shard), name)
  if len(shards) > 1:
    index = {'metadata': {'total_size': total_size}, 'weight_map': index}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + '\n')


def write_file(
  path: Path,
  tensors: Sequence[tuple[str, Tensor]],
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Write one file atomically, with a single tensor in memory at a time.

  metadata: further entries of the header.
  """
  codes = {dtype: code for code, dtype in DTYPES.items()}
  # Widest dtypes first, so that each tensor is aligned to its width.
  tensors = sorted(tensors, key=lambda pair: -pair[1].dtype.itemsize)
  placeholder = '0' * hashlib.sha256().digest_size * 2
  entries = {SHA256: placeholder, 'format': 'pt', **(metadata or {})}
  header: dict[str, Any] = {'__metadata__': entries}
  stop = 0
  for name, tensor in tensors:
    start, stop = stop, stop + tensor.nbytes
    header[name] = {
      'dtype': codes[tensor.dtype],
      'shape': tensor.shape,
      'data_offsets': (start, stop),
    }
  text = json.dumps(header).encode()
  text += b' ' * (-len(text) % 8)
  digest = hashlib.sha256()
  with replace_atomically(path) as temporary, temporary.open('wb') as file:
    file.write(struct.pack('<Q', len(text)) + text)
    for name, tensor in tensors:
      array = np.asarray(tensor.read(), tensor.dtype, order='C')
      assert array.shape == tensor.shape, f'{name}: {array.shape} is not {tensor.shape}'
      data = array.reshape(-1).view(np.uint8).data
      digest.update(data)
      file.write(data)
    file.seek(8 + text.index(placeholder.encode()))
    file.write(digest.hexdigest().encode())
