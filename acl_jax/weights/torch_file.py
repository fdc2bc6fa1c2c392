# SPDX-License-Identifier: Apache-2.0
"""Reads files of `torch.save`, a zip of raw storages and a pickle, without torch.

The pickle is never unpickled: this module interprets its opcodes, and imports or calls
nothing except what `GLOBALS` lists.
"""

import math
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from acl_jax.weights.tensor import Tensor

MAX_PICKLE_BYTES = 64 << 20
# What zipfile, pickletools and the interpreter raise on a damaged file.
# fmt: off
DAMAGED = (
  zipfile.BadZipFile, EOFError, LookupError, NotImplementedError, OSError,
  OverflowError, RuntimeError, TypeError, ValueError, struct.error,
)
# fmt: on


class _Storage(NamedTuple):
  """The member `data/{key}` of the zip: `size` numbers of one dtype."""

  dtype: np.dtype
  key: str
  size: int


class _View(NamedTuple):
  """A tensor in a storage; offset and strides are in numbers, not bytes."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def _make_storage(_: Any, dtype: Any, key: Any, device: Any, size: Any) -> _Storage:
  """Make a storage from the arguments of its persistent id."""
  if not (isinstance(dtype, np.dtype) and isinstance(key, str)):
    raise ValueError('the pickle has a storage without dtype or key')
  if not isinstance(size, int) or size < 0:
    raise ValueError('the pickle has a storage without a valid size')
  return _Storage(dtype, key, size)


def _rebuild_tensor(storage, offset, shape, strides, *_) -> _View:
  """`torch._utils._rebuild_tensor_v2`; ValueError if the view exceeds its storage."""
  view = _View(storage, offset, tuple(shape), tuple(strides))
  numbers = (view.offset, *view.shape, *view.strides)
  if not isinstance(storage, _Storage) or len(view.shape) != len(view.strides):
    raise ValueError('the pickle has a tensor without a storage or a stride')
  if not all(isinstance(number, int) and number >= 0 for number in numbers):
    raise ValueError('the pickle has a tensor with a negative size')
  last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
  if last >= storage.size or math.prod(shape) > storage.size:
    raise ValueError(
      f'the pickle has a tensor of shape {view.shape} in a storage of {storage.size}'
      ' numbers'
    )
  return view


GLOBALS = {
  'collections OrderedDict': lambda: {},
  'torch._utils _rebuild_tensor_v2': _rebuild_tensor,
  'torch._utils _rebuild_parameter': lambda tensor, *_: tensor,
  'torch BFloat16Storage': np.dtype(ml_dtypes.bfloat16),
  'torch DoubleStorage': np.dtype(np.float64),
  'torch FloatStorage': np.dtype(np.float32),
  'torch HalfStorage': np.dtype(np.float16),
}


def read(path: Path) -> dict[str, Tensor]:
  """Return the tensors of a saved dictionary, by name; they are not read yet."""
  if not path.is_file():
    raise FileNotFoundError(f'{path} is missing')
  try:
    with zipfile.ZipFile(path) as archive:
      return _read_archive(archive, path)
  except DAMAGED as error:
    raise ValueError(
      f'{path}: damaged, or not weights saved by torch.save: {error}'
    ) from error


def _read_archive(archive: zipfile.ZipFile, path: Path) -> dict[str, Tensor]:
  members = {member.filename: member for member in archive.infolist()}
  for member in members.values():
    end = member.header_offset + member.file_size
    if member.compress_type != zipfile.ZIP_STORED or end > path.stat().st_size:
      raise ValueError(f'{member.filename!r:.60} is compressed or truncated')
  (pickle_name,) = (name for name in members if name.endswith('/data.pkl'))
  root = pickle_name.removesuffix('data.pkl')
  if (size := members[pickle_name].file_size) > MAX_PICKLE_BYTES:
    raise ValueError(
      f'the pickle has {size} bytes; the limit is {MAX_PICKLE_BYTES} bytes'
    )
  if f'{root}byteorder' in members and archive.read(f'{root}byteorder') != b'little':
    raise ValueError('the byte order is not little-endian')
  views = _interpret(archive.read(pickle_name))
  for name, view in views.items():
    if not isinstance(view, _View):
      raise ValueError(f'{name!r:.60} is not a tensor')
    member, storage = members[f'{root}data/{view.storage.key}'], view.storage
    if member.file_size < storage.size * storage.dtype.itemsize:
      raise ValueError(
        f'{name!r:.60} needs {storage.size} numbers; its storage has'
        f' {member.file_size} bytes'
      )
  return {
    name: Tensor(view.shape, lambda view=view: _read_view(path, root, view))
    for name, view in views.items()
  }


def _read_view(path: Path, root: str, view: _View) -> np.ndarray:
  try:
    with zipfile.ZipFile(path) as archive:
      data = archive.read(f'{root}data/{view.storage.key}')
  except DAMAGED as error:
    raise ValueError(f'{path}: damaged: {error}') from error
  numbers = np.frombuffer(data, view.storage.dtype)[view.offset :]
  strides = [step * numbers.itemsize for step in view.strides]
  return np.lib.stride_tricks.as_strided(numbers, view.shape, strides)


class _Stack(list):
  """The stack of the pickle machine."""

  def pop_many(self, count: int) -> list[Any]:
    """Remove and return the last `count` items."""
    if not 0 <= count <= len(self):
      raise ValueError('the pickle pops more items than it has pushed')
    items = self[len(self) - count :]
    del self[len(self) - count :]
    return items

  def update_top(self, pairs: list[Any]) -> None:
    """Set items of the dictionary on top; `pairs` alternates keys and values."""
    # Tensor names are strings; hashing a malicious key could take arbitrarily long.
    if not all(isinstance(key, str) for key in pairs[::2]):
      raise ValueError('the pickle has a key that is not a string')
    if not isinstance(self[-1], dict):
      raise ValueError('the pickle sets items of an object that is not a dictionary')
    self[-1].update(zip(pairs[::2], pairs[1::2], strict=True))


def _interpret(pickle: bytes) -> dict[str, Any]:
  """Evaluate a pickle of protocol 2, which must be a dictionary of tensors."""
  stack, marks, memo = _Stack(), [], {}
  for opcode, argument, _ in pickletools.genops(pickle):
    match opcode.name:
      case 'PROTO':
        pass
      case 'BININT' | 'BININT1' | 'BININT2' | 'LONG1' | 'BINUNICODE':
        stack.append(argument)
      case 'NEWTRUE' | 'NEWFALSE':
        stack.append(opcode.name == 'NEWTRUE')
      case 'EMPTY_DICT':
        stack.append({})
      case 'EMPTY_TUPLE':
        stack.append(())
      case 'MARK':
        marks.append(len(stack))
      case 'TUPLE':
        stack.append(tuple(stack.pop_many(len(stack) - marks.pop())))
      case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
        stack.append(tuple(stack.pop_many(int(opcode.name[-1]))))
      case 'BINPUT' | 'LONG_BINPUT':
        memo[argument] = stack[-1]
      case 'BINGET' | 'LONG_BINGET':
        stack.append(memo[argument])
      case 'SETITEM':
        stack.update_top(stack.pop_many(2))
      case 'SETITEMS':
        stack.update_top(stack.pop_many(len(stack) - marks.pop()))
      case 'GLOBAL':
        if argument not in GLOBALS:
          raise ValueError(f'the pickle uses {argument!r:.60}, which is refused')
        stack.append(GLOBALS[argument])
      case 'REDUCE':
        function, arguments = stack.pop_many(2)
        stack.append(function(*arguments))
      case 'BINPERSID':
        stack.append(_make_storage(*stack.pop()))
      case 'BUILD':  # the module versions that torch attaches to an OrderedDict
        stack.pop()
      case 'STOP':
        return stack.pop()
      case name:
        raise ValueError(f'the pickle uses opcode {name}, which is refused')
  raise ValueError('the pickle has no STOP opcode')
