# SPDX-License-Identifier: Apache-2.0
"""A folder of safetensors as Hugging Face lays it out: one file, or shards + index.

Files are read and written one tensor at a time. Those written here note the sha256 of
their data in the header; https://github.com/huggingface/safetensors has the format.
"""

import functools
import hashlib
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors

from acl_jax.runtime.files import read_json, replace_atomically
from acl_jax.weights.pieces import Index
from acl_jax.weights.table import Tensor

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
SHA256 = 'sha256'  # of the data, in the header's metadata
_CHUNK = 1 << 20


def read(
  folder: Path,
  ignored: str | None = None,
  known: Mapping[str, np.dtype] = WEIGHTS,
) -> dict[str, Tensor]:
  """The tensors of all the shards in `folder`, by name; nothing is read yet.

  ignored: how the names end of those that nobody wants. known: the types of the others.
  """
  tensors = {}
  for path in files(folder):
    tensors |= _read_file(path, ignored, known)
  if (folder / INDEX).is_file():
    index = _index(folder)
    wanted = {name for name in index if not ignored or not name.endswith(ignored)}
    if strange := sorted(wanted ^ tensors.keys()):
      raise ValueError(
        f'{folder / INDEX}: it and the shards disagree about {strange[0]}'
      )
  return tensors


def files(folder: Path) -> list[Path]:
  """The file, or the shards."""
  if not (folder / INDEX).is_file():
    return [folder / FILE]
  names = sorted(set(_index(folder).values()))
  for name in names:
    if Path(name).name != name:
      raise ValueError(f'{folder / INDEX}: {name!r} is not the name of a file here')
  return [folder / name for name in names]


def _index(folder: Path) -> dict[str, str]:
  index = read_json(folder / INDEX).get('weight_map')
  if not isinstance(index, dict) or not all(isinstance(f, str) for f in index.values()):
    raise ValueError(f'{folder / INDEX}: weight_map does not map tensors to files')
  return index


def _open(path: Path):
  if not path.is_file():
    raise FileNotFoundError(f'{path} is missing')
  try:  # the library compares header and size of the file
    return safetensors.safe_open(path, 'np')
  except (safetensors.SafetensorError, OSError) as error:
    raise ValueError(f'{path}: damaged or not safetensors ({error})') from error


def _read_file(
  path: Path, ignored: str | None, known: Mapping[str, np.dtype]
) -> dict[str, Tensor]:
  tensors = {}
  with _open(path) as file:
    for name in file.keys():  # noqa: SIM118
      if ignored and name.endswith(ignored):
        continue
      part = file.get_slice(name)
      if (kind := part.get_dtype()) not in known:
        raise ValueError(f'{path}: {name} is {kind}, not one of {tuple(known)}')
      tensors[name] = Tensor(
        tuple(part.get_shape()),
        functools.partial(_load, path, name),
        known[kind],
        functools.partial(_load_part, path, name),
      )
  return tensors


def _load(path: Path, name: str) -> np.ndarray:
  # Opened again each time: pages of an open file stay in the memory of the process.
  with _open(path) as file:
    return file.get_tensor(name)


def _load_part(path: Path, name: str, index: Index) -> np.ndarray:
  with _open(path) as file:
    return file.get_slice(name)[index]


def check(path: Path) -> None:
  """ValueError if the data are not those that `write_file` noted, if it did."""
  with _open(path) as file:
    expected = (file.metadata() or {}).get(SHA256)
  if expected is None:
    return
  digest = hashlib.sha256()
  with path.open('rb') as file:
    file.seek(8 + struct.unpack('<Q', file.read(8))[0])
    while chunk := file.read(_CHUNK):
      digest.update(chunk)
  if digest.hexdigest() != expected:
    raise ValueError(
      f'{path}: has changed since it was saved: sha256 of its data is'
      f' {digest.hexdigest()}, not {expected}'
    )


def write(
  folder: Path, tensors: Iterable[tuple[str, Tensor]], limit: int = SHARD_BYTES
) -> None:
  """Writes shards of at most `limit` bytes, if no tensor is larger, and their index."""
  shards: list[list[tuple[str, Tensor]]] = [[]]
  total = room = 0
  for name, tensor in tensors:
    if shards[-1] and tensor.nbytes > room:
      shards.append([])
    room = limit if not shards[-1] else room
    shards[-1].append((name, tensor))
    room, total = room - tensor.nbytes, total + tensor.nbytes
  index = {}
  for number, shard in enumerate(shards, 1):
    name = f'model-{number:05}-of-{len(shards):05}.safetensors'
    write_file(folder / (name if len(shards) > 1 else FILE), shard)
    index |= dict.fromkeys((tensor for tensor, _ in shard), name)
  if len(shards) > 1:
    index = {'metadata': {'total_size': total}, 'weight_map': index}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + '\n')


def write_file(
  path: Path,
  tensors: Sequence[tuple[str, Tensor]],
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes one file, or none; a single tensor is in memory at a time."""
  codes = {dtype: code for code, dtype in DTYPES.items()}
  # Wide numbers first, so that each begins at a multiple of its width.
  tensors = sorted(tensors, key=lambda pair: -pair[1].dtype.itemsize)
  unknown = '0' * hashlib.sha256().digest_size * 2
  header, stop = (
    {'__metadata__': {SHA256: unknown, 'format': 'pt', **(metadata or {})}},
    0,
  )
  for name, tensor in tensors:
    start, stop = stop, stop + tensor.nbytes
    code = codes[tensor.dtype]
    span = {'shape': tensor.shape, 'data_offsets': (start, stop)}
    header[name] = {'dtype': code, **span}
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
    file.seek(8 + text.index(unknown.encode()))
    file.write(digest.hexdigest().encode())
