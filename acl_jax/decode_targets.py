# SPDX-License-Identifier: Apache-2.0
"""Program: the frozen LLM's answer to every transcript of a corpus, written once.

  python -m acl_jax.decode_targets --config=configs/smol.py \\
    --input=data/prepared --output=data/targets

`--input` is a prepared folder or a manifest. Only transcripts are read, no audio. Run
again after an interruption, it goes on with the first shard that is missing.
"""

import dataclasses
import itertools
import json
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_flags

from acl_jax import assembly, program
from acl_jax.decoding import targets
from acl_jax.decoding.generate import generate
from acl_jax.models.llama import Llama
from data_pipeline import corpora, records
from data_pipeline.container import pack

_CONFIG = config_flags.DEFINE_config_file('config')
_INPUT = flags.DEFINE_string('input', None, 'prepared folder or manifest')
_OUTPUT = flags.DEFINE_string('output', None, 'folder of the targets')
_SHARD_SIZE = flags.DEFINE_integer('shard_size', 512, 'responses per shard')

LENGTH_STEP = 16  # prompts are padded to multiples: few shapes, few compilations


@dataclasses.dataclass(frozen=True)
class Decoding:
  """How responses are decoded; what `config.targets` states, and the seed."""

  max_new_tokens: int
  batch_size: int
  temperature: float
  top_k: int
  seed: int


@dataclasses.dataclass(frozen=True)
class Example:
  """A transcript to answer."""

  id: str
  text: str
  prompt: tuple[int, ...]
