# SPDX-License-Identifier: Apache-2.0
"""A trained model in Python: `acl_jax.load('smol').answer('question.wav')`."""

import functools
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from acl_jax import build
from acl_jax.batches.padded import pad_to_step
from acl_jax.config.experiment import TrainConfig, parse_train
from acl_jax.conversation import Clip, Conversation, Waveform, as_clip
from acl_jax.generation.live import LiveEngine
from acl_jax.generation.live_requests import LiveConfig
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.text.frontend import TextFrontend
from data_pipeline import audio
from data_pipeline.features import HOP, SAMPLE_RATE, get_features

CONFIGS = Path(__file__).parent.parent / 'configs'
FRAME_STEP = 200  # log-mel frames, 2 s: audio is padded to a multiple


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
    mels = self._padded(clip)
    (ids,) = np.asarray(_recognise(self.model, *mels))
    return self.decode_transcript(ids[ids >= 0].tolist()).strip()

  def conversation(self, seed: int = 0) -> 'Conversation':
    """Start a conversation; `seed` decides what is drawn at temperatures above 0."""
    return Conversation(self, seed)

  @property
  def max_frames(self) -> int:
    """Log-mel frames that the encoder takes."""
    return self.model.encoder.config.max_frames

  def log_mel(self, clip: str | Path | Waveform | Clip) -> Float[np.ndarray, 't m']:
    """Return the log-mel spectrogram of a clip.

    AudioError for what cannot be read; ValueError for a clip longer than the encoder
    takes, or shorter than a frame.
    """
    encoder, source = self.model.encoder.config, as_clip(clip).source
    name = source if isinstance(source, (str, Path)) else 'the waveform'
    seconds = encoder.max_frames * HOP / SAMPLE_RATE
    if isinstance(source, (str, Path)):
      samples = audio.read(source)
    else:
      samples = np.asarray(source, np.float32)
      if samples.ndim != 1 or not np.isfinite(samples).all():
        raise ValueError(f'{name} has shape {samples.shape}; it must be finite and 1-D')
    features = get_features(encoder.features)
    log_mel = features.log_mel(samples, encoder.num_mel_bins)
    if len(log_mel) > encoder.max_frames:
      raise ValueError(
        f'{name}: {len(samples) / SAMPLE_RATE:.1f} s of audio; the encoder takes'
        f' {seconds:.1f} s'
      )
    return log_mel

  def encode(self, clip: str | Path | Waveform | Clip) -> Float[np.ndarray, 's e']:
    """Return the embeddings that the LLM reads for a clip."""
    mels = self._padded(clip)
    embeddings, mask = _encode_audio(self.model, *mels)
    return np.asarray(embeddings[0])[np.asarray(mask[0])]

  def _padded(self, clip: str | Path | Waveform | Clip):
    """Return a batch of one log-mel spectrogram, in one of few shapes, and its mask."""
    return pad_to_step([self.log_mel(clip)], 1, self.max_frames, FRAME_STEP)

  @functools.cached_property
  def engine(self) -> LiveEngine:
    """Answers the conversations, one turn at a time."""
    context = self.model.llama.config.max_position_embeddings
    config = LiveConfig(slots=1, context=context, cached_tokens=context)
    return LiveEngine(self.model.llama, config, self.text.tokenizer.stop_ids)


@jax.jit
def _encode_audio(model: SpeechLLM, log_mel, frame_mask):
  return model.encode_audio(jnp.asarray(log_mel), jnp.asarray(frame_mask))


@jax.jit
def _recognise(model: SpeechLLM, log_mel, frame_mask):
  frames, mask = model.encoder(jnp.asarray(log_mel), jnp.asarray(frame_mask))
  return model.greedy(frames, mask)
