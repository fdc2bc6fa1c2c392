# SPDX-License-Identifier: Apache-2.0
"""Provenance of a checkpoint: config, frozen models, versions and data position."""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax

import acl_jax
from acl_jax.runtime.differences import find_differences, shorten
from data_pipeline.batches import BatchPlan

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')
MAX_LISTED = 5  # differences


class Provenance:
  """Provenance of the checkpoints of one stage.

  frozen: fingerprints of the frozen models, which checkpoints do not contain. order:
  the plan of every batch. ids: of the utterances that the plans refer to.
  """

  def __init__(
    self,
    config: Mapping[str, Any],
    frozen: Mapping[str, Any],
    order: Sequence[BatchPlan],
    ids: Sequence[str],
  ):
    self.config = json.loads(json.dumps(config))
    self.frozen = json.loads(json.dumps(dict(frozen)))
    self.order, self.ids = order, ids

  def metadata(self, step: int) -> dict[str, Any]:
    """Return the metadata of a checkpoint at `step`."""
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
    """Return a checksum of the plan of the batch after `step`, with utterance ids.

    The order is a function of (seed, step), so equal checksums mean the same order at
    the same position.
    """
    plan = self.order[step]
    ids = [[self.ids[i] for i in row] for row in plan.utterances]
    return hashlib.sha256(json.dumps([ids, *plan], default=int).encode()).hexdigest()

  def rejection_reason(self, metadata: Mapping[str, Any]) -> str | None:
    """Return why training cannot resume from a checkpoint, or None if it can."""
    if (frozen := metadata.get('frozen')) != self.frozen:
      return (
        f'its frozen models are {shorten(frozen)}; those of this config are'
        f' {shorten(self.frozen)}'
      )
    if metadata.get('next_batch') != self.next_batch(metadata['step']):
      changes = self.describe_changes(metadata) or 'the data'
      return (
        f'its next batch differs from that of this config at step {metadata["step"]}:'
        f' the data or their order changed ({changes})'
      )
    return None

  def describe_changes(self, metadata: Mapping[str, Any]) -> str:
    """List the config keys that changed since a checkpoint, as `key: old -> new`."""
    differences = find_differences(metadata.get('config'), self.config, 'config')
    changes = sorted(f'{name}: {old!r} -> {new!r}' for name, old, new in differences)
    if len(changes) > MAX_LISTED:
      changes[MAX_LISTED:] = [f'and {len(changes) - MAX_LISTED} more']
    return ', '.join(changes)
