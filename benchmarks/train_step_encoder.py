# SPDX-License-Identifier: Apache-2.0
"""The encoder of `train_step.py`, ours and in Transformers and PEFT, and its input."""

import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import peft
import torch
import transformers
from flax import nnx

from acl_jax.batches.arrays import AudioBatch
from acl_jax.models import whisper
from acl_jax.models.lora import LoRAConfig, apply_lora
from acl_jax.weights.fingerprint import describe
from acl_jax.weights.peft import save_lora
from acl_jax.weights.whisper import describe_whisper, save_whisper, whisper_names
from benchmarks.train_step_batch import ENCODER_WIDTH, FRAMES, ROWS

# Whisper base, for shorter audio: Transformers takes its full length only.
WHISPER = whisper.WhisperConfig(80, ENCODER_WIDTH, 6, 8, 4 * ENCODER_WIDTH, FRAMES)
LORA = LoRAConfig(
  16, 32.0, 0.0, ('q_proj', 'k_proj', 'v_proj', 'out_proj', 'fc1', 'fc2')
)


def build_encoder(trains: str) -> whisper.Whisper:
  """Return an encoder with random weights; trains: 'none', 'lora' or 'full'."""
  encoder = whisper.Whisper(WHISPER, rngs=nnx.Rngs(0))
  if trains == 'lora':
    apply_lora(encoder, LORA, rngs=nnx.Rngs(1))
  return encoder


def with_log_mel(audio: AudioBatch) -> AudioBatch:
  """Replace the encoder frames of a batch by log-mel frames; every row is full.

  The encoder of Transformers has no mask.
  """
  rng = np.random.default_rng(1)
  frames = rng.standard_normal((ROWS, 2 * FRAMES, WHISPER.num_mel_bins), np.float32)
  index = np.tile(np.arange(FRAMES, dtype=np.int32), (ROWS, 1, 1))
  return audio._replace(
    frames=jnp.asarray(frames),
    segment_ids=jnp.ones((ROWS, 2 * FRAMES), jnp.int32),
    frame_index=jnp.asarray(index),
  )


def torch_encoder(trains: str) -> torch.nn.Module:
  """Return the same encoder in PyTorch; what trains requires gradients."""
  ours, sizes = build_encoder(trains), describe_whisper(build_encoder('none'))
  sizes |= {'decoder_layers': 1, 'decoder_attention_heads': 1, 'decoder_ffn_dim': 1}
  with tempfile.TemporaryDirectory() as name:
    base, updates = Path(name) / 'base', Path(name) / 'lora'
    save_whisper(build_encoder('none'), base)
    transformers.WhisperConfig(**sizes).save_pretrained(base)
    model = transformers.WhisperModel.from_pretrained(base, attn_implementation='sdpa')
    encoder = model.encoder.requires_grad_(trains == 'full')
    if trains == 'lora':
      sha256 = describe(ours)['sha256']
      save_lora(ours, whisper_names(ours), updates, str(base), sha256)
      return peft.PeftModel.from_pretrained(encoder, updates, is_trainable=True)
  return encoder
