# SPDX-License-Identifier: Apache-2.0
"""Settings of an export that are not in the config."""

import dataclasses
from pathlib import Path

REFERENCE, INCLUDE, ALONE = 'reference', 'include', 'alone'
TRANSFORMERS, ULTRAVOX, GGUF = 'transformers', 'ultravox', 'gguf'
FORMATS = (TRANSFORMERS, ULTRAVOX, GGUF)
DTYPES = ('float32', 'bfloat16', 'float16')
Q8_0 = 'q8_0'  # of GGUF only


@dataclasses.dataclass(frozen=True)
class Options:
  """Settings of an export that are not in the config.

  llm: reference, include or alone. llm_id: the LLM in a reference; None for its path.
  dtype: of the LLM's weights; None for the config's. report: a report.json of
  `evaluate` for the model card. format: of the folder; one of FORMATS.
  """

  llm: str = REFERENCE
  llm_id: str | None = None
  dtype: str | None = None
  report: Path | None = None
  format: str = TRANSFORMERS

  def __post_init__(self):
    llms = (REFERENCE, INCLUDE, ALONE)
    dtypes = (*DTYPES, Q8_0) if self.format == GGUF else DTYPES
    for name, choices in (('llm', llms), ('dtype', dtypes), ('format', FORMATS)):
      value = getattr(self, name)
      if value not in choices and (name, value) != ('dtype', None):
        raise ValueError(f'--{name} is {value!r}; choose from {", ".join(choices)}')
