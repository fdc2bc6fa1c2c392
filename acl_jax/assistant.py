# SPDX-License-Identifier: Apache-2.0
"""A trained model in Python: `acl_jax.load('smol').answer('question.wav')`."""

import functools
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from acl_jax import build
from acl_jax.config.experiment import TrainConfig, parse_train
from acl_jax.conversation import Clip, Conversation, Waveform, as_clip
from acl_jax.generation.live import LiveEngine
from acl_jax.generation.live_requests import LiveConfig
from acl_jax.hearing.heard import Heard
from acl_jax.hearing.hearing import Hearing
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.text.frontend import TextFrontend
from data_pipeline import audio
from data_pipeline.audio import SAMPLE_RATE

CONFIGS = Path(__file__).parent.parent / 'configs'


def load(
  config: str | Path | TrainConfig = 'smol', checkpoint: str | Path | None = None
) -> 'Assistant':
  """Load a trained model.

  config: the name of a shipped config, the path of a config file, or a parsed config.
  checkpoint: a workdir of `train`, an adapter file or an exported folder; None is the
  adapter that is shipped for the config.
  """
  if not isinstance(config, TrainConfig):
    config = parse_train(_read_config_file(Path(config)))
  parts = build.find_checkpoint(checkpoint, config.shipped_adapter)
  text = build.load_text_frontend(config.llama, config.template)
  model = build.load_model(config, parts)
  decode = build.load_transcript_decoder(config.encoder, model, text, parts)
  return Assistant(model, text, decode)


def _read_config_file(path: Path) -> Any:
  """Run the `get_config` of a config file, or of the shipped one with this name."""
  if not path.suffix:
    path = CONFIGS / f'{path}.py'
  if not path.is_file():
    known = ', '.join(sorted(file.stem for file in CONFIGS.glob('[a-z]*.py')))
    raise FileNotFoundError(f'{path}: no such config; shipped: {known}')
  spec = importlib.util.spec_from_file_location(path.stem, path)
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config()


class Assistant:
  """A model that answers audio and text.

  decode_transcript: decodes the ids of `SpeechLLM.greedy`, if the model recognises.
  """

  def __init__(
    self,
    model: SpeechLLM,
    text: TextFrontend,
    decode_transcript: Callable[[list[int]], str] | None = None,
  ):
    self.model, self.text = model, text
    self.decode_transcript = decode_transcript

  def answer(
    self, *clips: str | Path | Waveform | Clip, text: str = '', **options: Any
  ) -> str:
    """Answer one turn: the clips, then the text; see `Conversation.stream`.

    clips: audio files or waveforms.
    """
    return self.conversation().ask(*clips, text=text, **options)

  def stream(
    self, *clips: str | Path | Waveform | Clip, text: str = '', **options: Any
  ) -> Iterator[str]:
    """Yield the answer piece by piece while it is decoded."""
    return self.conversation().stream([*map(as_clip, clips), text], **options)

  def transcribe(self, clip: str | Path | Waveform | Clip) -> str | None:
    """Return the model's own hard transcript; None if it does not recognise."""
    if self.decode_transcript is None:
      return None
    return self.hear(clip).transcript

  def conversation(self, seed: int = 0) -> 'Conversation':
    """Start a conversation; `seed` decides what is drawn at temperatures above 0."""
    return Conversation(self, seed)

  @functools.cached_property
  def hearing(self) -> Hearing:
    """What hears clips, and remembers them."""
    return Hearing(self.model, self.text.tokenizer, self.decode_transcript)

  def read(self, clip: str | Path | Waveform | Clip) -> Waveform:
    """Return the samples of a clip, at 16 kHz.

    AudioError for a file that cannot be read; ValueError for a clip that is too long.
    """
    source, seconds = as_clip(clip).source, self.hearing.max_seconds
    if isinstance(source, (str, Path)):
      return audio.read(source, limits=audio.Limits(seconds=seconds))
    samples = np.asarray(source, np.float32)
    if samples.ndim != 1 or not np.isfinite(samples).all():
      raise ValueError(
        f'the waveform has shape {samples.shape}; it must be finite and 1-D'
      )
    if len(samples) > seconds * SAMPLE_RATE:
      raise ValueError(
        f'the waveform has {len(samples) / SAMPLE_RATE:.1f} s of audio; the limit is'
        f' {seconds:g} s'
      )
    return samples

  def hear(self, clip: str | Path | Waveform | Clip) -> Heard:
    """Return what is heard in a clip: embeddings, and the model's own transcript."""
    return self.hearing.hear(self.read(clip))

  def encode(self, clip: str | Path | Waveform | Clip) -> Float[np.ndarray, 's e']:
    """Return the embeddings that the LLM reads for a clip."""
    return self.hear(clip).embeddings

  @functools.cached_property
  def engine(self) -> LiveEngine:
    """Answers the conversations, one turn at a time."""
    context = self.model.llama.config.max_position_embeddings
    config = LiveConfig(slots=1, context=context, cached_tokens=context)
    return LiveEngine(self.model.llama, config, self.text.tokenizer.stop_ids)
