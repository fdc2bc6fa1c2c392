# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint says of itself: config, frozen models, versions, data position."""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections

import acl_jax
from data_pipeline.batches import BatchPlan

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')
SHOWN = 5  # differences that are told


class Provenance:
  """Of one training. Frozen models are named by their fingerprints, not copied.

  order, ids: the batches of every step, and the names of the recordings in them.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    frozen: Mapping[str, Any],
    order: Sequence[BatchPlan],
    ids: Sequence[str],
  ):
    self.config = json.loads(config.to_json_best_effort())
    self.frozen = json.loads(json.dumps(dict(frozen)))
    self.order, self.ids = order, ids

  def at(self, step: int) -> dict[str, Any]:
    """The note for a checkpoint of `step`."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    devices = f'{jax.device_count()} {jax.devices()[0].device_kind}'
    return {
      'step': step,
      'next_batch': self.next_batch(step),
      'config': self.config,
      'frozen': self.frozen,
      'versions': {'acl_jax': acl_jax.__version__, **versions},
      'devices': devices,
      'processes': jax.process_count(),
    }

  def next_batch(self, step: int) -> str:
    """The sha256 of which recordings stand where in the batch after `step`.

    The order is a function of (seed, step), so that is the position in it, and whether
    it is the same order.
    """
    batch = self.order[step]
    named = [[self.ids[i] for i in row] for row in batch.utterances]
    return hashlib.sha256(json.dumps([named, *batch], default=int).encode()).hexdigest()

  def foreign(self, note: Mapping[str, Any]) -> str | None:
    """Why a checkpoint with this note cannot be continued, if it cannot."""
    if (there := note.get('frozen')) != self.frozen:
      here = _short(self.frozen)
      return f'it goes with the frozen {_short(there)}, this config with {here}'
    if note.get('next_batch') != self.next_batch(note['step']):
      changed = self.differences(note) or 'the recordings themselves'
      return (
        f'the batch after it is not that of this config at step {note["step"]}, so the'
        f' data or their order changed ({changed})'
      )
    return None

  def differences(self, note: Mapping[str, Any]) -> str:
    """Which keys of the config have other values there: `key: there -> here`."""
    there, here = dict(_flat(note.get('config'))), dict(_flat(self.config))
    found = [
      f'{key}: {there.get(key)!r} -> {here.get(key)!r}'
      for key in sorted(there.keys() | here.keys())
      if there.get(key) != here.get(key)
    ]
    more = f' and {len(found) - SHOWN} more' if len(found) > SHOWN else ''
    return ', '.join(found[:SHOWN]) + more


def _flat(tree: Any, path: str = 'config') -> Iterator[tuple[str, Any]]:
  if isinstance(tree, dict):
    for key, value in tree.items():
      yield from _flat(value, f'{path}.{key}')
  else:
    yield path, tree


def _short(frozen: Any) -> str:
  text = json.dumps(frozen)
  return text if len(text) <= 200 else f'{text[:200]}…'
