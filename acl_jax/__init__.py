# SPDX-License-Identifier: Apache-2.0
"""A chat model that answers speech as it answers text.

import acl_jax
acl_jax.load('smol').answer('question.wav')
"""

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from acl_jax.assistant import Assistant

STARTED = time.monotonic()  # before all other imports

__version__ = '0.1.0'


def load(config: Any = 'smol', checkpoint: Any = None) -> 'Assistant':
  """Load a trained model; see `acl_jax.assistant.load`."""
  from acl_jax import assistant  # slow to import, and programs need less

  return assistant.load(config, checkpoint)
