# SPDX-License-Identifier: Apache-2.0
"""Sizes of published models, for config files: plans need them, files confirm them."""

from typing import Any

from ml_collections import ConfigDict

from acl_jax.config import defaults

# Published encoders, as their config.json has them: NVIDIA's parakeet-ctc-0.6b (the
# defaults of Transformers) and the encoder of OpenAI's whisper-large-v3-turbo.
PARAKEET_0_6B = {
  'features': 'parakeet',
  'hidden_size': 1_024,
  'num_hidden_layers': 24,
  'num_attention_heads': 8,
  'intermediate_size': 4_096,
  'conv_kernel_size': 9,
  'num_mel_bins': 80,
}
WHISPER_LARGE_V3_TURBO = {
  'num_mel_bins': 128,
  'd_model': 1_280,
  'encoder_layers': 32,
  'encoder_attention_heads': 20,
  'encoder_ffn_dim': 5_120,
  'max_source_positions': 1_500,
}


def llama3_sizes(rope_factor: float, **sizes: Any) -> dict[str, Any]:
  """Return the sizes of a Llama 3.1 or later, but for the `sizes` that differ."""
  return {
    'vocab_size': 128_256,
    'num_attention_heads': 32,
    'num_key_value_heads': 8,
    'rope_theta': 5e5,
    'rms_norm_eps': 1e-5,
    'max_position_embeddings': 131_072,
    'rope_scaling': {
      'kind': 'llama3',
      'factor': rope_factor,
      'low_freq_factor': 1.0,
      'high_freq_factor': 4.0,
      'original_max_position_embeddings': 8_192,
    },
    **sizes,
  }


def set_encoder(c: ConfigDict, name: str, width: int) -> None:
  """Set the encoder of `train`, 'parakeet' or 'whisper', and what follows from it.

  Parakeet trains whole, Whisper by LoRA; rows have 41 s; the projector is Ultravox's.
  width: of the LLM. ValueError for another name.
  """
  if name == 'parakeet':
    c.encoder = {
      'kind': 'conformer',
      'path': 'models/parakeet-ctc-0.6b',
      'trains': 'full',
      'lr_scale': 0.1,  # the encoder is pretrained; the projector is not
      'sizes': PARAKEET_0_6B,
    }
    c.adapter = {'kind': 'stride', 'stack': 3, 'hidden_size': width}  # 240 ms
    c.data.row_frames = 512  # at 80 ms
  elif name == 'whisper':
    c.encoder.update(
      path='models/whisper-large-v3-turbo', trains='lora', lora=defaults.ENCODER_LORA
    )
    c.encoder.sizes = WHISPER_LARGE_V3_TURBO
    c.adapter = {'kind': 'stride', 'stack': 8, 'hidden_size': width}  # 160 ms
    c.data.row_frames = 2_048  # at 20 ms
  else:
    raise ValueError(f'encoder {name!r} is not one of parakeet, whisper')
