# SPDX-License-Identifier: Apache-2.0
"""Starts vLLM's server on a folder, and asks it as clients do."""

import base64
import contextlib
import io
import os
import socket
import subprocess
import time
from typing import NamedTuple

import openai
import soundfile

START_SECONDS = 900  # of a busy machine; a quiet one needs about a minute
MODULE = 'vllm.entrypoints.openai.api_server'
FLAGS = ('--trust-remote-code', '--dtype=float32', '--enforce-eager')
LIMITS = ('--max-model-len=2048', '--max-num-seqs=4', '--max-logprobs=20')
ENVIRONMENT = {
  'VLLM_CPU_KVCACHE_SPACE': '1',
  'VLLM_CPU_OMP_THREADS_BIND': 'nobind',
  'OMP_NUM_THREADS': '1',  # threads wait for each other on a busy machine
  'VLLM_NO_USAGE_STATS': '1',
  'HF_HUB_OFFLINE': '1',
}


class Answer(NamedTuple):
  """An answer of vLLM; first: log-probabilities of the likeliest first tokens."""

  prompt: list[int]
  tokens: list[int]
  first: dict[int, float]
  text: str


@contextlib.contextmanager
def serve(vllm, folder, log):
  """Yield a client; `vllm` is the Python that has vLLM, `log` a file.

  The program `vllm` looks for a package of that name, and the build for CPUs has
  another: so its module is run.
  """
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  command = [vllm, '-m', MODULE, f'--model={folder}', *FLAGS, *LIMITS]
  command += ['--host=127.0.0.1', f'--port={port}', '--served-model-name=exported']
  unset = ('PYTHONPATH', 'PYTHONHOME')
  environment = {k: v for k, v in os.environ.items() if k not in unset} | ENVIRONMENT
  with log.open('w') as file:
    process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
  url = f'http://127.0.0.1:{port}/v1'
  client = openai.OpenAI(base_url=url, api_key='none', max_retries=0, timeout=600)
  try:
    wait(client, process, log)
    yield client
  finally:
    process.terminate()
    try:
      process.wait(60)
    except subprocess.TimeoutExpired:
      process.kill()


def wait(client, process, log):
  for _ in range(START_SECONDS):
    assert process.poll() is None, log.read_text()[-6_000:]
    with contextlib.suppress(openai.APIError):
      if client.models.list().data:
        return
    time.sleep(1)
  raise TimeoutError(log.read_text()[-6_000:])


def audio_part(waveform):
  """Return 16 kHz samples as a part of a message."""
  wav = io.BytesIO()
  soundfile.write(wav, waveform, 16_000, 'FLOAT', format='WAV')
  data = base64.b64encode(wav.getvalue()).decode()
  return {'type': 'input_audio', 'input_audio': {'data': data, 'format': 'wav'}}


def ask(client, messages, max_tokens):
  """Return vLLM's greedy answer."""
  reply = client.chat.completions.create(
    model='exported',
    messages=messages,
    max_tokens=max_tokens,
    temperature=0,
    logprobs=True,
    top_logprobs=20,
    extra_body={'return_token_ids': True, 'return_tokens_as_token_ids': True},
  )
  choice = reply.choices[0]
  first = choice.logprobs.content[0].top_logprobs
  return Answer(
    reply.prompt_token_ids,
    choice.token_ids,
    {int(each.token.removeprefix('token_id:')): each.logprob for each in first},
    choice.message.content,
  )


def stream(client, messages, max_tokens):
  """Return the pieces of a greedy answer as they come."""
  chunks = client.chat.completions.create(
    model='exported',
    messages=messages,
    max_tokens=max_tokens,
    temperature=0,
    stream=True,
  )
  pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
  return [piece for piece in pieces if piece]
