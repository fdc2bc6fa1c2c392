# SPDX-License-Identifier: Apache-2.0
"""llama.cpp's server answers like the JAX model: `make test-engines`.

SmolLM2 and Whisper base, as configs/smol_stride.py has them, with a random projector.
"""

import numpy as np
import pytest
from flax import nnx

from acl_jax import assets, build
from acl_jax.config.experiment import parse_train
from acl_jax.evaluation import examples
from acl_jax.evaluation.prompt_batches import PromptCase
from acl_jax.evaluation.responses import generate_responses
from acl_jax.export import Options, export
from acl_jax.exporting import check_gguf
from acl_jax.exporting.llama_server import EXACT, audio_part, find_server, run_server
from acl_jax.models.adapters import StrideAdapter, StrideAdapterConfig
from acl_jax.text.templates import Audio, Turn
from acl_jax.weights.adapter import save_adapter
from acl_jax.weights.llama import open_llama
from configs import smol_stride
from data_pipeline import audio

pytestmark = [
  pytest.mark.full,
  pytest.mark.skipif(find_server() is None, reason='llama-server is not installed'),
]
COUNT, MAX_TOKENS = 20, 32
# float32 on both sides; llama.cpp has Whisper's convolutions in float16.
TEXT_TOLERANCE, AUDIO_TOLERANCE = 5e-4, 5e-3


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  """The model, its text frontend, the server, and recordings."""
  folder = tmp_path_factory.mktemp('llama_cpp')
  config = parse_train(smol_stride.get_config())
  save_random_adapter(config, folder / 'workdir')
  export(
    config,
    folder / 'exported',
    str(folder / 'workdir'),
    Options(llm='include', format='gguf'),
  )
  model = build.load_model(config, build.find_checkpoint(folder / 'workdir'))
  text = build.load_text_frontend(config.llama, config.template)
  utterances, _ = examples.read_manifest(check_gguf.SHIPPED_MANIFEST, COUNT)
  clips = [utterance.read(audio.Limits(seconds=27)) for utterance in utterances]
  with run_server(find_server(), folder / 'exported', EXACT) as server:
    yield model, text, server, clips


def save_random_adapter(config, folder):
  """Save a projector whose embeddings are as long as those of words."""
  llama = open_llama(assets.resolve(config.llama.path))
  scale = llama.tensors['token_embd.weight'].read().std()
  sizes = StrideAdapterConfig(
    config.adapter.stack, 512, config.adapter.hidden_size, llama.config.hidden_size
  )
  adapter, random = StrideAdapter(sizes, rngs=nnx.Rngs(0)), np.random.default_rng(0)
  for norm in (adapter.ln_pre, adapter.ln_mid):
    norm[...] += random.normal(0, 0.3, norm.shape).astype(np.float32)
  adapter.linear_2[...] *= 6 * scale
  folder.mkdir()
  save_adapter(folder / build.ADAPTER_FILE, adapter, trailing_silence=300)


def ours(model, text, turns, clips=()):
  """Return our greedy answer to a conversation with clips filled up to 30 s."""
  embedded = [check_gguf.hear_filled(model, clip) for clip in clips]
  case = PromptCase(text.conversation_prompt(turns), embedded)
  stop_ids = text.tokenizer.stop_ids
  ((_, ids),) = generate_responses(
    model, [case], max_new_tokens=MAX_TOKENS, stop_ids=stop_ids
  )
  return text.tokenizer.decode(ids).strip()


def test_answers_are_the_same(world):
  compared = check_gguf.compare_answers(*world)
  print(compared)
  written, filled, _ = compared.values()  # at its true length audio differs
  assert written.same == written.count
  assert written.log_prob < TEXT_TOLERANCE
  assert filled.same == filled.count == COUNT
  assert filled.log_prob < AUDIO_TOLERANCE


def test_several_clips_and_text(world):
  model, text, server, clips = world
  content = [
    {'type': 'text', 'text': 'First:'},
    audio_part(clips[0]),
    {'type': 'text', 'text': 'Second:'},
    audio_part(clips[1]),
  ]
  theirs = server.answer([{'role': 'user', 'content': content}], MAX_TOKENS)
  turns = [Turn('user', ('First:', Audio(0), 'Second:', Audio(1)))]
  assert theirs.text.strip() == ours(model, text, turns, clips[:2])


def test_a_second_turn_and_streaming(world):
  model, text, server, clips = world
  first = {'role': 'user', 'content': [audio_part(clips[2])]}
  reply = server.answer([first], MAX_TOKENS).text
  messages = [
    first,
    {'role': 'assistant', 'content': reply},
    {'role': 'user', 'content': 'Say that in fewer words.'},
  ]
  streamed = [*server.stream(messages, MAX_TOKENS)]
  assert sum(map(bool, streamed)) > 1
  turns = [
    Turn('user', (Audio(0),)),
    Turn('assistant', reply),
    Turn('user', 'Say that in fewer words.'),
  ]
  assert ''.join(streamed).strip() == ours(model, text, turns, clips[2:3])
