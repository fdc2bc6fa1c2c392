# SPDX-License-Identifier: Apache-2.0
"""A tiny Conformer of Transformers with no parameter at its initial value."""

import numpy as np
import torch
from transformers import ParakeetCTCConfig, ParakeetEncoderConfig, ParakeetForCTC

MELS, VOCABULARY = 16, 13  # blank included
SIZES = dict(
  hidden_size=24,
  num_hidden_layers=3,
  num_attention_heads=4,
  intermediate_size=40,
  conv_kernel_size=5,
  subsampling_conv_channels=10,
  num_mel_bins=MELS,
)


def build_reference(**changes):
  torch.manual_seed(0)
  encoder = ParakeetEncoderConfig(**(SIZES | changes), initializer_range=0.2)
  config = ParakeetCTCConfig(
    vocab_size=VOCABULARY, pad_token_id=VOCABULARY - 1, encoder_config=encoder.to_dict()
  )
  model = ParakeetForCTC(config).eval()
  for name, weight in [*model.named_parameters(), *model.named_buffers()]:
    if name.endswith('running_var'):
      torch.nn.init.uniform_(weight, 0.5, 2.0)
    elif name.endswith(('bias', 'running_mean')) or 'norm' in name and weight.ndim == 1:
      torch.nn.init.normal_(weight, 0.5, 0.3)
  return model


def log_mel(lengths, seed=0):
  """Return noise, zero after each length, and its frame mask."""
  shape = (len(lengths), max(lengths), MELS)
  frame_mask = np.arange(shape[1]) < np.asarray(lengths)[:, None]
  x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
  return x * frame_mask[..., None], frame_mask
