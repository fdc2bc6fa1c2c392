# SPDX-License-Identifier: Apache-2.0
"""Low-rank adaptation (LoRA, Hu et al. 2021) of any matrices of a module.

`apply_lora` replaces matrices W, chosen by name, by W + scale A B, of which only the
factors A and B train. The sum is never formed in a training step, so that W needs no
gradient; `merge_lora` forms it afterwards.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from acl_jax.models.layers import Constant, dropout
from acl_jax.models.matrices import contract_array

Module = TypeVar('Module', bound=nnx.Module)


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
  """Low-rank updates of the matrices whose dotted names end in one of `targets`."""

  rank: int  # columns of A, rows of B
  alpha: float  # the update is alpha / rank times A B
  dropout: float  # of the inputs of A
  targets: tuple[str, ...]  # names of matrices, such as q_proj or self_attn.q_proj

  def __post_init__(self):
    if self.rank < 1:
      raise ValueError(f'rank = {self.rank} is not at least 1')
    if not 0 < self.alpha < math.inf:
      raise ValueError(f'alpha = {self.alpha} is not a positive finite number')
    if not 0 <= self.dropout < 1:
      raise ValueError(f'dropout = {self.dropout} is not at least 0 and below 1')
    if not self.targets:
      raise ValueError('targets is empty; LoRA needs the name of a matrix')


class Factor(nnx.Param):
  """A factor of a low-rank update."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _expand(
  x: Float[Array, '*b r'], w: Float[Array, 'r ...'], dtype: DTypeLike | None
) -> Float[Array, '...']:
  """As `contract_array`; its gradient of the matrix is fast on CPUs.

  That gradient is a product over positions, for which XLA transposes the operand that
  is first. JAX would put the wide gradient of the output there.
  """
  return contract_array(x, w, 1, dtype)


def _expand_forward(x: Array, w: Array, dtype: DTypeLike | None):
  return _expand(x, w, dtype), (x, w)


def _expand_backward(dtype: DTypeLike | None, inputs: tuple[Array, Array], grad: Array):
  del dtype
  x, w = inputs
  positions = list(range(x.ndim - 1))
  outputs = list(range(x.ndim - 1, grad.ndim))
  grad_x = jnp.tensordot(grad, w.astype(x.dtype), (outputs, list(range(1, w.ndim))))
  grad_w = jnp.tensordot(x, grad, (positions, positions))
  return grad_x.astype(x.dtype), grad_w.astype(w.dtype)


_expand.defvjp(_expand_forward, _expand_backward)


class LoRAMatrix(nnx.Module):
  """A frozen matrix and its low-rank update; layers are stacked as in the matrix.

  A is drawn such that a product with it keeps the scale of its inputs, or with the
  scale of a table's rows; B is zero, so that the update is zero at first. key: of the
  dropout, see `set_dropout_key`.
  """

  def __init__(self, matrix: nnx.Variable, config: LoRAConfig, *, rngs: nnx.Rngs):
    axes, inputs = (matrix.get_metadata()[name] for name in ('axes', 'inputs'))
    stacked = len(matrix.shape) - len(axes)
    layers, shape = matrix.shape[:stacked], matrix.shape[stacked:]
    scale = math.prod(shape[:inputs]) ** -0.5
    if axes[0] in ('vocab', 'classes'):  # rows of a table are looked up, not summed
      scale = jnp.sqrt(jnp.mean(jnp.square(matrix[...].astype(jnp.float32))))
    a = rngs.params.normal((*layers, *shape[:inputs], config.rank)) * scale
    b = jnp.zeros((*layers, config.rank, *shape[inputs:]))
    self.inputs, self.rank, self.alpha = inputs, config.rank, config.alpha
    self.dropout = config.dropout
    self.base = Constant(matrix[...], axes=axes, inputs=inputs)
    self.lora_A = Factor(a, axes=(*axes[:inputs], 'rank'))
    self.lora_B = Factor(b, axes=('rank', *axes[inputs:]))
    self.key: nnx.Variable | None = nnx.data(None)

  @property
  def scale(self) -> float:
    """The factor of the update."""
    return self.alpha / self.rank

  @property
  def layers(self) -> tuple[int, ...]:
    """Sizes of the leading axes of stacked layers."""
    return self.lora_A.shape[: len(self.lora_A.shape) - self.inputs - 1]

  def contract(
    self, x: Float[Array, '...'], axes: int, dtype: DTypeLike | None
  ) -> Float[Array, '...']:
    """See `matrices.contract`."""
    y = contract_array(x, self.base[...], axes, dtype)
    x = dropout(x, self.dropout, None if self.key is None else self.key[...])
    x = contract_array(x, self.lora_A[...], axes) * self.scale
    update: Array = _expand(x, self.lora_B[...], dtype)
    return y + update

  def score_rows(
    self, x: Float[Array, '*b d'], dtype: DTypeLike | None
  ) -> Float[Array, '*b v']:
    """See `matrices.score_rows`; without dropout."""
    y = contract_array(x, self.base[...].T, 1, dtype)
    x = contract_array(x, self.lora_B[...].T) * self.scale
    return y + contract_array(x, self.lora_A[...].T, 1, dtype)

  def lookup(self, ids: Int[Array, '*b']) -> Float[Array, '*b d']:
    """See `matrices.lookup`; without dropout."""
    rows = self.base[ids]
    update = contract_array(self.lora_A[ids] * self.scale, self.lora_B[...])
    return rows + update.astype(rows.dtype)

  def unwrap(self) -> nnx.Param:
    """Return the matrix without its update."""
    return self._make_param(self.base[...])

  def merge(self) -> nnx.Param:
    """Return the sum of the matrix and its update, in the dtype of the matrix."""
    a, b, base = self.lora_A[...], self.lora_B[...], self.base[...]
    a = a.reshape(*self.layers, -1, self.rank)
    update = a @ b.reshape(*self.layers, self.rank, -1) * self.scale
    merged = (base.astype(jnp.float32) + update.reshape(base.shape)).astype(base.dtype)
    return self._make_param(merged)

  def _make_param(self, value: Array) -> nnx.Param:
    metadata = self.base.get_metadata()
    return nnx.Param(value, axes=metadata['axes'], inputs=metadata['inputs'])


class Place(NamedTuple):
  """Where a module holds a matrix."""

  parent: Any
  attribute: str


def apply_lora(module: Module, config: LoRAConfig, *, rngs: nnx.Rngs) -> Module:
  """Wrap the matrices that the targets name, in place, and return the module.

  A target is a dotted name or the end of one; `weight` of a dense layer is left out, as
  PEFT does. ValueError if a target matches no matrix, or two match the same.
  """
  matrices = dict(_find(module, _is_matrix))
  matched: dict[str, str] = {}
  for target in config.targets:
    names = [n for n in matrices if n == target or n.endswith(f'.{target}')]
    names = [target] if target in names else names
    if not names:
      known = ', '.join(dict.fromkeys(name.split('.')[-1] for name in matrices))
      raise ValueError(f'LoRA target {target!r} matches no matrix; there are {known}')
    for name in names:
      if name in matched:
        raise ValueError(
          f'LoRA targets {matched[name]!r} and {target!r} both match {name}'
        )
      matched[name] = target
  for name in matrices:
    if name in matched:
      parent, attribute = matrices[name]
      matrix = LoRAMatrix(getattr(parent, attribute), config, rngs=rngs)
      setattr(parent, attribute, matrix)
  return module


def merge_lora(module: Module) -> Module:
  """Replace every wrapped matrix by its sum, in place, and return the module."""
  for parent, attribute in [place for _, place in _find(module, _is_wrapped)]:
    setattr(parent, attribute, getattr(parent, attribute).merge())
  return module


def remove_lora(module: Module) -> Module:
  """Replace every wrapped matrix by its base, in place, and return the module."""
  for parent, attribute in [place for _, place in _find(module, _is_wrapped)]:
    setattr(parent, attribute, getattr(parent, attribute).unwrap())
  return module


def find_matrices(module: nnx.Module) -> dict[str, nnx.Param]:
  """Return the matrices that can be wrapped by dotted name, as `LoRAConfig` has it."""
  return {name: getattr(*place) for name, place in _find(module, _is_matrix)}


def wrapped_matrices(module: nnx.Module) -> dict[str, LoRAMatrix]:
  """Return the wrapped matrices by dotted name."""
  return {name: getattr(*place) for name, place in _find(module, _is_wrapped)}


def find_lora_config(module: nnx.Module) -> LoRAConfig | None:
  """Return the config that wraps another such module equally; None without LoRA."""
  matrices = wrapped_matrices(module)
  if not matrices:
    return None
  first = next(iter(matrices.values()))
  return LoRAConfig(first.rank, first.alpha, first.dropout, tuple(matrices))


def set_dropout_key(module: nnx.Module, key: Array) -> None:
  """Apply dropout to the inputs of A from now on; each matrix and layer has a key."""
  for number, matrix in enumerate(wrapped_matrices(module).values()):
    if matrix.dropout:
      own = jax.random.fold_in(key, number)
      matrix.key = nnx.Variable(jax.random.split(own, matrix.layers))


def _find(module: nnx.Module, is_wanted: Any) -> Iterator[tuple[str, Place]]:
  """Yield the dotted names and places of the attributes that are wanted."""
  modules: Any = nnx.iter_modules(module)
  for path, parent in sorted(modules, key=lambda item: [*map(str, item[0])]):
    for attribute, value in sorted(vars(parent).items()):
      if is_wanted(value):
        parts = [*map(str, path), attribute]
        name = '.'.join(parts[:-1] if attribute == 'weight' else parts)
        yield name, Place(parent, attribute)


def _is_matrix(value: Any) -> bool:
  return isinstance(value, nnx.Param) and value.get_metadata().get('inputs') is not None


def _is_wrapped(value: Any) -> bool:
  return isinstance(value, LoRAMatrix)
