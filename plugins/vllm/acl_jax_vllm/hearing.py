# SPDX-License-Identifier: Apache-2.0
"""Encoder and projector of an exported folder: from audio to embeddings of the LLM.

They are run by the torch code in the folder. The number of embeddings of a CTC or an
attention projector is known only after it has run, and vLLM must know it when it reads
a prompt: so they run there, on the CPU, and not in vLLM's engine.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.utils import cached_file

INDEX, FILE = 'model.safetensors.index.json', 'model.safetensors'
EMBEDDING, PREFIX = 'model.embed_tokens.weight', 'language_model.'
OURS = ('audio_tower.', 'multi_modal_projector.')


class Table(nn.Module):
  """What a projector knows of the LLM: its input embeddings."""

  def __init__(self, weight: torch.Tensor):
    super().__init__()
    self.embed_tokens = nn.Embedding.from_pretrained(weight)

  def get_input_embeddings(self) -> nn.Module:
    return self.embed_tokens


class Hearing:
  """The encoder and the projector of a folder, in float32.

  source: the folder or its name on a hub. config: its configuration. dtype: of the LLM.
  revision: of the folder on a hub.
  """

  def __init__(
    self, source: str, config: Any, dtype: torch.dtype, revision: str | None = None
  ):
    name = config.auto_map['AutoModel']
    model_class = get_class_from_dynamic_module(name, source, revision=revision)
    # A model whose LLM is elsewhere is made without one.
    without_llm = copy.deepcopy(config)
    without_llm.text_model_id = source
    self.model = model_class(without_llm).float().eval()
    tensors = read_tensors(source, lambda name: name.startswith(OURS), revision)
    self.model.load_state_dict(tensors)
    self.table = read_table(source, config, revision).to(dtype)
    self.model.language_model = Table(self.table)
    self.dtype = dtype

  @torch.inference_mode()
  def embed(
    self, audio_values: torch.Tensor, audio_lens: torch.Tensor
  ) -> list[torch.Tensor]:
    """log-mel [m t] of windows [a m t] -> their embeddings [n e], n of each window.

    Windows run one by one, so that none depends on the others' lengths.
    """
    embeddings = []
    for values, length in zip(audio_values, audio_lens, strict=True):
      x, _, mask = self.model.encode_audio(values[None, :, :length], length[None])
      embeddings.append(x[0][mask[0]].to(self.dtype))
    return embeddings


def read_table(source: str, config: Any, revision: str | None) -> torch.Tensor:
  """Read the LLM's input embeddings, in the folder or where it says that they are."""
  llm, name = config.text_model_id, PREFIX + EMBEDDING
  if llm is not None:
    source, name, revision = llm, EMBEDDING, None
  if any(file.endswith('.gguf') for file in config.text_model_sha256 or {}) and llm:
    raise ValueError(
      f'{llm}: the LLM is a GGUF file, which vLLM cannot load here; export with'
      ' --llm=include'
    )
  return read_tensors(source, lambda each: each == name, revision)[name]


def read_tensors(source: str, wanted, revision: str | None) -> dict[str, torch.Tensor]:
  """Read the tensors of a folder whose names are wanted."""
  tensors = {}
  for file, names in _files(source, revision).items():
    with safe_open(_find(source, file, revision), 'pt') as opened:
      for name in names or opened.keys():
        if wanted(name):
          tensors[name] = opened.get_tensor(name)
  return tensors


def _files(source: str, revision: str | None) -> Mapping[str, list[str]]:
  """Return the files of weights and the names in each; no names are all of them."""
  index = _find(source, INDEX, revision, missing_ok=True)
  if index is None:
    return {FILE: []}
  files: dict[str, list[str]] = {}
  for name, file in json.loads(Path(index).read_text())['weight_map'].items():
    files.setdefault(file, []).append(name)
  return files


def _find(source: str, file: str, revision: str | None, missing_ok: bool = False):
  return cached_file(
    source,
    file,
    revision=revision,
    _raise_exceptions_for_missing_entries=not missing_ok,
  )
