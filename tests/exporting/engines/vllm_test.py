# SPDX-License-Identifier: Apache-2.0
"""vLLM serves exported folders with our answers; run by `make test-engines`.

The environment variable VLLM names the Python of an environment of its own that has
vLLM and the plug-in `plugins/vllm`.
"""

import dataclasses
import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile

from acl_jax import build, build_adapter
from acl_jax.config.experiment import parse_train
from acl_jax.evaluation import encoding, examples
from acl_jax.evaluation.prompt_batches import PromptCase
from acl_jax.evaluation.responses import generate_responses
from acl_jax.export import Options, export
from acl_jax.runtime.files import read_json
from acl_jax.text.templates import Audio, Turn
from acl_jax.weights.adapter import save_adapter
from configs import methods, smol, whisper_ctc
from data_pipeline import audio
from tests.exporting.engines import vllm_server

VLLM = os.environ.get('VLLM', '')
pytestmark = [
  pytest.mark.full,
  pytest.mark.skipif(not VLLM, reason='VLLM does not name an engine to test with'),
]
RECORDINGS, MAX_TOKENS = 20, 24
MAX_SAMPLES = 8 * 16_000  # folders cut longer recordings into windows
POSITION = 8 * 320  # samples
TOLERANCE = 2e-3  # nats, of a log-probability; both sides compute in float32
FORMATS = {'ultravox': 'ultravox', 'attention': 'transformers', 'ctc': 'transformers'}
CONVERSATIONS = {
  'several clips': [Turn('user', [Audio(0), ' Compare it with this: ', Audio(1)])],
  'second turn': [
    Turn('user', [Audio(2)]),
    Turn('assistant', 'I see.'),
    Turn('user', ['And what is this? ', Audio(3)]),
  ],
}


class Served(NamedTuple):
  """A server, the recordings, our prompts by name, and our answers to them."""

  client: Any
  waveforms: list[np.ndarray]
  conversations: dict[str, list[Turn]]
  prompts: dict[str, list[int]]
  answers: dict[str, tuple[int, ...]]
  first: dict[str, np.ndarray]

  def ask(self, name):
    messages = to_messages(self.conversations[name], self.waveforms)
    return vllm_server.ask(self.client, messages, MAX_TOKENS)

  def compare(self, name):
    """Assert the same prompt and answer; return the first token's difference."""
    theirs = self.ask(name)
    assert theirs.prompt == self.prompts[name], name
    assert tuple(theirs.tokens) == self.answers[name], (name, theirs.text)
    ours = self.first[name]
    return max(abs(ours[token] - value) for token, value in theirs.first.items())


def to_messages(conversation, waveforms):
  """Return a conversation as the API has it."""
  messages = []
  for turn in conversation:
    parts = [turn.content] if isinstance(turn.content, str) else turn.content
    content = [
      {'type': 'text', 'text': part}
      if isinstance(part, str)
      else vllm_server.audio_part(waveforms[part.index])
      for part in parts
    ]
    is_text = isinstance(turn.content, str)
    messages.append(
      {'role': turn.role, 'content': turn.content if is_text else content}
    )
  return messages


def load_experiment(kind, tmp):
  """Return a config in float32 and the workdir of its adapter; None: the shipped one.

  No Ultravox is shipped: its projector is untrained, so that answers vary widely.
  """
  configs = {'attention': smol.get_config, 'ctc': whisper_ctc.get_config}
  if kind in configs:
    return in_float32(configs[kind]()), None
  config = in_float32(methods.get_config('ultravox,none,ce'))
  text = build.load_text_frontend(config.llama, config.template)
  encoder = build.load_encoder(config.encoder)
  sizes = encoder.config.output_size, 576
  piece = text.tokenizer.token_text
  adapter = build_adapter.new_adapter(config.adapter, 3, *sizes, [], piece)
  silence = encoder.config.trailing_silence
  save_adapter(tmp / build.ADAPTER_FILE, adapter, trailing_silence=silence)
  return config, str(tmp)


def in_float32(config):
  config = parse_train(config)
  llama = dataclasses.replace(config.llama, dtype='float32')
  return dataclasses.replace(config, llama=llama)


def run_ours(config, workdir, folder):
  """Return the recordings, and conversations, prompts, answers and first tokens.

  folder: the exported one; its LLM and tokenizer load faster than a GGUF file.
  """
  from acl_jax.exporting import check

  llama = dataclasses.replace(config.llama, path=str(folder))
  config = dataclasses.replace(config, llama=llama)
  audio_id = read_json(folder / 'config.json')['audio_token_index']
  listed, _ = examples.read_manifest(check.SHIPPED_MANIFEST, 2 * RECORDINGS)
  recordings = [each for each in listed if len(each.read(audio.Limits())) < MAX_SAMPLES]
  utterances = [
    pad(each, folder.parent / f'{each.id}.wav') for each in recordings[:RECORDINGS]
  ]
  model = build.load_model(
    config, build.find_checkpoint(workdir, config.shipped_adapter)
  )
  text = build.load_text_frontend(config.llama, config.template)
  encoded, bad = encoding.encode_utterances(model, None, utterances, lambda _: None)
  assert not bad
  clips = [encoded[each.id].clip for each in utterances]
  waveforms = [encoding.read_audio(model, each) for each in utterances]
  single = {str(i): [Turn('user', [Audio(i)])] for i in range(len(clips))}
  conversations: dict[str, Any] = single | CONVERSATIONS
  segments = [text.conversation_prompt(each) for each in conversations.values()]
  cases = [make_case(prompt, clips) for prompt in segments]
  answers = dict(
    generate_responses(
      model,
      cases,
      max_new_tokens=MAX_TOKENS,
      stop_ids=text.tokenizer.stop_ids,
    )
  )
  forced = [case._replace(response=answers[i][:1]) for i, case in enumerate(cases)]
  logits = {i: values[0] for i, values in check.response_logits(model, forced)}
  names = dict(enumerate(conversations))
  return (
    waveforms,
    conversations,
    {name: expand(segments[i], clips, audio_id) for i, name in names.items()},
    {name: answers[i] for i, name in names.items()},
    {name: check._log_softmax(logits[i]) for i, name in names.items()},
  )


def pad(utterance, path):
  """Pad a recording with silence to whole positions of an Ultravox.

  vLLM's Ultravox fills the last position of a clip with frames of the padding, which
  depends on the clips that are encoded beside it; ours fills it with zeros.
  """
  waveform = utterance.read(audio.Limits())
  waveform = np.pad(waveform, (0, -len(waveform) % POSITION))
  soundfile.write(path, waveform, audio.SAMPLE_RATE, 'FLOAT')
  return dataclasses.replace(utterance, audio_filepath=path)


def make_case(prompt, clips):
  """Return a prompt with those of the clips that it contains."""
  used = [segment for segment in prompt if isinstance(segment, int)]
  local = [used.index(each) if isinstance(each, int) else each for each in prompt]
  return PromptCase(local, [clips[index] for index in used])


def expand(prompt, clips, audio_id):
  """Return the ids of a prompt with one audio token for each embedding."""
  ids = []
  for segment in prompt:
    is_clip = isinstance(segment, int)
    ids += [audio_id] * len(clips[segment]) if is_clip else segment
  return ids


@pytest.fixture(scope='module', autouse=True)
def tokenizer_read_once():
  """Share the text frontend of a config, which takes seconds to read."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      build, 'load_text_frontend', functools.cache(build.load_text_frontend)
    )
    yield


@pytest.fixture(scope='module', params=FORMATS)
def served(request, tmp_path_factory, tokenizer_read_once):
  tmp = tmp_path_factory.mktemp(request.param)
  config, workdir = load_experiment(request.param, tmp)
  options = Options(llm='include', dtype='float32', format=FORMATS[request.param])
  folder = tmp / f'exported_{request.param}'
  export(config, folder, workdir, options)
  ours = run_ours(config, workdir, folder)
  with vllm_server.serve(VLLM, folder, tmp / 'vllm.log') as client:
    yield Served(client, *ours)


def test_answers_are_ours(served):
  names = [name for name in served.answers if name.isdigit()]
  assert len({served.answers[name] for name in names}) > RECORDINGS // 2
  with ThreadPoolExecutor(4) as pool:  # several at a time, as vLLM is used
    difference = max(pool.map(served.compare, names))
  print(f'first token, log-probabilities: {difference:.2g} nats apart at most')
  assert difference < TOLERANCE


@pytest.mark.parametrize('name', CONVERSATIONS)
def test_conversations_are_answered_as_ours(served, name):
  assert served.compare(name) < TOLERANCE


def test_streamed_answer_is_the_same(served):
  messages = to_messages(served.conversations['3'], served.waveforms)
  pieces = vllm_server.stream(served.client, messages, MAX_TOKENS)
  assert len(pieces) > 1
  assert ''.join(pieces) == served.ask('3').text
