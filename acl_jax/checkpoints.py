# SPDX-License-Identifier: Apache-2.0
"""Locations of the parts of a trained model."""

import dataclasses
import functools
from pathlib import Path

from acl_jax.weights import safetensors
from acl_jax.weights.adapter import read_trailing_silence
from acl_jax.weights.exported import is_exported, read_exported_silence
from acl_jax.weights.peft import is_lora_folder
from acl_jax.weights.ultravox import has_encoder

ADAPTER_FILE = 'adapter.safetensors'
# Also in a workdir: what trained of the encoder and, by LoRA, of the LLM.
ENCODER_FOLDER, LLAMA_FOLDER = 'encoder', 'llama'
SHIPPED = Path(__file__).parent / 'adapters'


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """Locations of the parts of a trained model.

  adapter: its file; in an exported folder the file of all weights, or their index.
  """

  adapter: Path
  exported: bool

  @functools.cached_property
  def encoder(self) -> Path | None:
    """The folder of the encoder that was trained with the adapter, if any."""
    folder = self.adapter.parent
    if self.exported:
      return folder if has_encoder(folder) else None
    trained = folder / ENCODER_FOLDER
    return trained if trained.is_dir() and not is_lora_folder(trained) else None

  @property
  def trailing_silence(self) -> int | None:
    """Log-mel frames of silence after every utterance in training; None: unknown."""
    if self.exported:
      return read_exported_silence(self.adapter.parent)
    return read_trailing_silence(self.adapter)

  def lora_folder(self, part: str) -> Path | None:
    """Return the folder of the low-rank updates of a part, if there is one.

    part: `ENCODER_FOLDER` or `LLAMA_FOLDER`.
    """
    folder = self.adapter.parent / part
    return folder if not self.exported and is_lora_folder(folder) else None


def find_checkpoint(path: str | Path | None, shipped: str = '') -> Checkpoint:
  """Find the parts of a model in a workdir, an adapter file or an exported folder.

  shipped: name of the shipped adapter, which is used if `path` is None.
  FileNotFoundError if there is no adapter.
  """
  if path is None:
    adapter = SHIPPED / shipped / ADAPTER_FILE
  else:
    adapter = Path(path)
    if is_exported(adapter):
      sharded = (adapter / safetensors.INDEX).is_file()
      name = safetensors.INDEX if sharded else safetensors.FILE
      return Checkpoint(adapter / name, exported=True)
    if adapter.is_dir():
      adapter = adapter / ADAPTER_FILE
  if not adapter.is_file():
    raise FileNotFoundError(
      f'{adapter}: no such adapter; train one or give --checkpoint'
    )
  return Checkpoint(adapter, exported=False)
