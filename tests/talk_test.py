# SPDX-License-Identifier: Apache-2.0
"""`make talk`: waits for the server, prints its address, and ends with it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Stands for acl_jax.serve: is ready after a second, ends by Ctrl-C or SIGTERM.
SERVE = r"""
import http.server, signal, sys, time
signal.signal(signal.SIGTERM, signal.default_int_handler)
flags = dict(flag[2:].split('=') for flag in sys.argv[1:])
assert flags['config'] == 'configs/smol.py'
if flags['port'] == '1':
  sys.exit(1)
start = time.monotonic()

class Handler(http.server.BaseHTTPRequestHandler):
  def do_GET(self):
    self.send_response(200 if time.monotonic() > start + 1 else 503)
    self.end_headers()

try:
  http.server.HTTPServer(('127.0.0.1', int(flags['port'])), Handler).serve_forever()
except KeyboardInterrupt:
  print('server ended', flush=True)
"""


@pytest.fixture
def obeys_ctrl_c():
  """Programs that tests start obey Ctrl-C, even if the tests run in the background."""
  handler = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, handler)


@pytest.fixture
def start(tmp_path, obeys_ctrl_c):
  """Start a copy of talk.py with a server and models that cost nothing."""
  package = tmp_path / 'acl_jax'
  package.mkdir()
  (package / '__init__.py').touch()
  (package / 'serve.py').write_text(SERVE)
  (package / 'assets.py').write_text(
    "cache_folder = lambda: 'cache'\nfetch = lambda name: print('fetched', name)\n"
  )
  modules = tmp_path / 'webbrowser.py'
  modules.write_text("import sys\nopen('opened', 'w').write(sys.argv[1])\n")
  (tmp_path / 'talk.py').write_bytes((ROOT / 'talk.py').read_bytes())

  def run(port: int, **variables: str) -> subprocess.Popen:
    hidden = ('DISPLAY', 'WAYLAND_DISPLAY')
    variables |= {k: v for k, v in os.environ.items() if k not in hidden}
    # A proxy that cannot be reached, which must not be asked for this computer.
    variables |= {'http_proxy': 'http://127.0.0.1:9', 'PYTHONPATH': str(tmp_path)}
    return subprocess.Popen(
      [sys.executable, 'talk.py', f'--port={port}'],
      cwd=tmp_path,
      env=variables,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )

  return run


@pytest.mark.full
@pytest.mark.parametrize('display', ['', ':99'])
def test_the_address_is_printed_and_opened_when_ready(start, tmp_path, display):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  talk = start(port, **({'DISPLAY': display} if display else {}))
  opened, address = tmp_path / 'opened', f'http://127.0.0.1:{port}'
  lines = []
  for line in talk.stdout:
    lines.append(line)
    if address in line:
      break
  deadline = time.monotonic() + 20
  while display and not opened.exists() and time.monotonic() < deadline:
    time.sleep(0.05)
  if display:
    os.killpg(talk.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
  else:
    talk.terminate()
  output, errors = talk.communicate(timeout=60)
  assert talk.returncode == 0, errors
  assert 'fetched joe-voice\n' in lines and 'server ended' in output
  assert opened.exists() == bool(display)
  if display:
    assert opened.read_text() == address


@pytest.mark.full
def test_a_server_that_fails_ends_it(start):
  talk = start(1)
  output, errors = talk.communicate(timeout=60)
  assert talk.returncode == 1 and 'ended with code 1' in errors
  assert 'Talk to it' not in output
