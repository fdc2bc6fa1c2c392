# SPDX-License-Identifier: Apache-2.0
"""The base of config files: every key, with the value that most experiments share.

A config file sets its own values and locks the result:

  c = defaults.train_config()
  c.data.train = (('prepared', 1.0),)
  return c.lock()
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from acl_jax.config.serving import ServeConfig
from data_pipeline.augment import Augmentation

# The paper's Conformer: width, heads and kernel. Its depth could not be verified.
PAPER_CONFORMER = {
  'features': 'kaldi',
  'hidden_size': 512,
  'num_hidden_layers': 18,
  'num_attention_heads': 8,
  'intermediate_size': 2_048,
  'conv_kernel_size': 11,
  'num_mel_bins': 80,
  'dropout': 0.1,
}


# The matrices of every layer of Whisper's encoder and decoder that LoRA wraps.
WHISPER_MATRICES = ('q_proj', 'k_proj', 'v_proj', 'out_proj', 'fc1', 'fc2')
ENCODER_LORA = {
  'rank': 32,
  'alpha': 64.0,
  'dropout': 0.0,
  'targets': WHISPER_MATRICES,
}
# Seconds of silence after every utterance, without which Whisper's decoder does not
# know where speech ends; and buckets (encoder frames of 20 ms) for both together.
WHISPER_SILENCE = 3.0
WHISPER_BUCKETS = (256, 304, 352, 448, 640, 928)
# Whisper's decoder as the adapter, trained by LoRA; its rows of tokens stay.
WHISPER_ATTENTION = {
  'kind': 'attention',
  'path': 'asset:whisper-base',
  'stack': 8,  # at most 6 tokens a second
  'sizes': None,
  'lora': {
    'rank': 64,
    'alpha': 64.0,
    'dropout': 0.0,
    'targets': WHISPER_MATRICES,
  },
  'beams': 1,
}


def llama2_sizes(
  hidden_size: int,
  intermediate_size: int,
  num_hidden_layers: int,
  num_attention_heads: int,
  num_key_value_heads: int,
) -> dict[str, Any]:
  """Return the sizes of a Llama-2."""
  return {
    'vocab_size': 32_000,
    'hidden_size': hidden_size,
    'intermediate_size': intermediate_size,
    'num_hidden_layers': num_hidden_layers,
    'num_attention_heads': num_attention_heads,
    'num_key_value_heads': num_key_value_heads,
    'head_dim': 128,
    'rope_theta': 1e4,
    'rms_norm_eps': 1e-5,
    'tie_word_embeddings': False,
    'max_position_embeddings': 4_096,
  }


def stage(**changes: Any) -> ConfigDict:
  """Return the keys of every stage."""
  c = ConfigDict()
  c.steps = 0
  c.frames_per_batch = 2_048
  c.peak_lr = 1e-3
  c.warmup_steps = 0
  c.weight_decay = 0.0
  c.clip_norm = 1.0
  c.skip_spikes = False
  c.log_every = 20
  c.save_every = 1_000
  c.update(changes)
  return c


def ctc_stage(**changes: Any) -> ConfigDict:
  """Return the CTC stage of a CTC adapter."""
  c = stage(weight_decay=0.01, sampled_classes=2_048)
  c.update(changes)
  return c


def transcription_stage(**changes: Any) -> ConfigDict:
  """Return the transcription stage of an attention adapter."""
  c = stage(weight_decay=0.01, sampled_classes=1 << 20, label_smoothing=0.0)
  c.update(changes)
  return c


def response_stage(**changes: Any) -> ConfigDict:
  """Return the response stage, with cross-entropy only, as in the paper."""
  c = stage(kl_weight=0.0, kl_temperature=1.0, ctc_weight=0.0, transcription_weight=0.0)
  c.remat = placeholder(str)
  c.on_policy = None
  c.microbatches = 1
  c.update(changes)
  return c


def augmentation(**changes: Any) -> ConfigDict:
  """Return waveform augmentation with every effect off, except for the gain."""
  off = Augmentation(
    speed=0.0, noise_share=0.0, noise_snr=(0.0, 25.0), telephone_share=0.0
  )
  c = ConfigDict(dataclasses.asdict(off))
  c.update(changes)
  return c


def train_config() -> ConfigDict:
  """Return a base for `train`: frozen Whisper base and SmolLM2-135M-Instruct."""
  c = ConfigDict()
  c.seed = 0
  c.init_from = ''
  c.shipped_adapter = ''
  c.mesh = {'data': -1, 'fsdp': 1, 'tensor': 1}
  c.llama = {
    'path': 'asset:smollm2-135m-instruct',
    'dtype': 'float32',
    'sharding': 'replicated',
    'sizes': None,
    'lora': None,
    'date': '2024-07-26',
  }
  c.template = 'auto'
  c.encoder = {
    'kind': 'whisper',
    'path': 'asset:whisper-base',
    'trains': 'none',
    'lr_scale': 0.1,
    'layer_lr_decay': 1.0,
    'lora': None,
    'trailing_silence': 0.0,
    'sizes': None,
  }
  c.data = _data()
  c.data.row_tokens = placeholder(int)
  c.data.targets = ''
  c.data.leave_out = ('empty', 'repetition', 'refusal')
  c.augmentation = None
  c.masking = None
  c.targets = {
    'max_prompt_tokens': 128,
    'max_new_tokens': 32,
    'batch_size': 32,
    'sampling': {'temperature': 0.0, 'top_k': 0, 'top_p': 1.0},  # greedy
    'repeats': 6,
    'top_k': 0,
    'refusals': ("I'm sorry", 'I cannot', "I can't", 'As an AI'),
    'instructions': (('{}', 1.0),),  # only the plain prompt
    'cache_dtype': '',
  }
  c.ctc = None
  c.transcription = None
  c.response = None
  c.serve = dataclasses.asdict(ServeConfig())
  return c


def pretrain_config() -> ConfigDict:
  """Return a base for `pretrain`."""
  c = ConfigDict()
  c.seed = 0
  c.init_from = ''
  c.mesh = {'data': -1, 'fsdp': 1, 'tensor': 1}
  c.vocabulary_size = 1_500
  c.max_piece_length = 16
  c.data = _data()
  c.data.dev = ''
  c.augmentation = None
  c.masking = None
  c.ctc = stage(weight_decay=1e-3, average_decay=0.999)
  c.ctc.remat = placeholder(str)
  c.ctc.remat = 'dots'
  c.ctc.letters = None
  return c


def _data() -> ConfigDict:
  c = ConfigDict()
  c.train = placeholder(object)  # pairs, or a string from a flag
  c.copies = 1
  c.row_frames = placeholder(int)
  c.buckets = ()
  return c
