# SPDX-License-Identifier: Apache-2.0
import contextlib
import resource
import signal
import socket
import subprocess
import sys
import time

import openai
import pytest

from acl_jax.serving import server
from tests.serving.client_test import HI
from tests.serving.fakes import REPLY

SERVE = """
import resource
from acl_jax.serving import server
from tests.serving.fakes import make_service
service = make_service(grace_seconds={grace})
service.ready = False
service.engine.seconds = {seconds}
service.voice.fails_on = ''
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
server.serve(service, server.bind('127.0.0.1', 0))
"""


@pytest.mark.parametrize(
  'text', ['example.org', 'https://example.org/', 'ftp://a', 'https://', '*', 'null']
)
def test_origins_are_origins(text):
  with pytest.raises(ValueError, match='is not an origin like'):
    server.parse_origin(text)
  assert server.parse_origin('https://Example.org:8443') == 'https://example.org:8443'


def test_an_address_in_use():
  with socket.create_server(('127.0.0.1', 0)) as other:
    port = other.getsockname()[1]
    with pytest.raises(OSError, match=f'cannot listen at 127.0.0.1 port {port}'):
      server.bind('127.0.0.1', port)


def start(grace, seconds):
  code = SERVE.format(grace=grace, seconds=seconds)
  process = subprocess.Popen(
    [sys.executable, '-c', code], stderr=subprocess.PIPE, text=True
  )
  lines = []
  for line in process.stderr:
    lines.append(line.strip())
    if line.startswith('ready'):
      assert lines[:3] == ['no voice: no program', 'engine: 1 of 1', 'hearing']
      url = line.split()[-1]
      api = openai.OpenAI(base_url=f'{url}v1', api_key='-', max_retries=0)
      return process, api
  raise AssertionError(lines)


@pytest.mark.full
def test_sigterm_lets_replies_end_and_refuses_new_ones():
  process, api = start(grace=20, seconds=0.03)
  with process, api:
    stream = iter(api.chat.completions.create(model='tiny', messages=HI, stream=True))
    text = [next(stream).choices[0].delta.content for _ in range(4)]
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    with pytest.raises(openai.InternalServerError, match='shutting down') as caught:
      api.chat.completions.create(model='tiny', messages=HI)
    assert caught.value.status_code == 503
    text += [chunk.choices[0].delta.content or '' for chunk in stream]
    assert ''.join(text) == REPLY
    assert process.wait(10) == 0


@pytest.mark.full
def test_a_thousand_connections_hold_up_nobody(open_files):
  process, api = start(grace=0, seconds=0)
  address = api.base_url.host, api.base_url.port
  request = b'POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n'
  with process, api, contextlib.ExitStack() as stack:
    stack.callback(process.kill)  # or a failure would wait for its end
    for number in range(1_000):
      connection = stack.enter_context(socket.create_connection(address, 10))
      connection.sendall(request if number % 2 else b'')
    begin = time.monotonic()
    reply = api.chat.completions.create(model='tiny', messages=HI, timeout=20)
    assert reply.choices and time.monotonic() - begin < 10
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


@pytest.fixture
def open_files():
  """Let this process have as many open files as it may."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  if hard < 2_048:
    pytest.skip(f'this machine allows {hard} open files')
  resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
  yield
  resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.full
@pytest.mark.parametrize('grace, signals', [(1, 1), (99, 2)])
def test_no_reply_outlasts_the_grace_time_or_a_second_signal(grace, signals):
  process, api = start(grace, seconds=2)
  with process, api:
    stream = iter(api.chat.completions.create(model='tiny', messages=HI, stream=True))
    next(stream)
    began = time.monotonic()
    for _ in range(signals):
      process.send_signal(signal.SIGTERM)
      time.sleep(0.3)
    assert process.wait(20) == 0
    assert time.monotonic() - began < 15
    with pytest.raises((openai.APIError, Exception)):
      list(stream)
