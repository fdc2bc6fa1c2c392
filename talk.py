# SPDX-License-Identifier: Apache-2.0
"""The speech chat server with the embedded models, and its page: `make talk`.

  python talk.py --port=8000

Prints the address once the server is ready, and opens it where there is a display.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request

from acl_jax import assets

CONFIG = 'configs/smol.py'
MODELS = ('smollm2-135m-instruct', 'whisper-base', 'joe-voice')
_POLL_SECONDS = 0.5


def main() -> None:
  """Fetch the models and serve until Ctrl-C."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--port', type=int, default=8000)
  port = parser.parse_args().port
  print(f'== The embedded models, in {assets.cache_folder()}', flush=True)
  try:
    for model in MODELS:
      assets.fetch(model)
  except OSError as error:
    sys.exit(f'talk: {error}')
  print('== Starting the server; the first start takes longer', flush=True)
  server = subprocess.Popen(
    [sys.executable, '-m', 'acl_jax.serve', f'--config={CONFIG}', f'--port={port}']
  )
  address = f'http://127.0.0.1:{port}'
  threading.Thread(target=announce, args=(server, address), daemon=True).start()
  signal.signal(signal.SIGTERM, lambda *_: server.terminate())
  while True:
    try:
      code = server.wait()
      break
    except KeyboardInterrupt:  # the server has it too, and finishes its answers
      continue
  sys.exit(f'talk: the server ended with code {code}' if code > 0 else 0)


def announce(server: subprocess.Popen, address: str) -> None:
  """Print the address once the server is ready, and open it if there is a display."""
  while not is_ready(address):
    if server.poll() is not None:
      return
    time.sleep(_POLL_SECONDS)
  if server.poll() is None:  # otherwise another server has this port
    print(f'\n== Talk to it: open {address} in a browser. Ctrl-C ends.\n', flush=True)
    if has_display():
      subprocess.run(
        [sys.executable, '-m', 'webbrowser', address],
        stdout=subprocess.DEVNULL,
        check=False,
      )


def is_ready(address: str) -> bool:
  """Return whether a server answers that it is ready."""
  # No proxy: it is this computer.
  opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
  try:
    with opener.open(f'{address}/ready', timeout=5) as response:
      return response.status == 200
  except OSError:
    return False


def has_display() -> bool:
  """Return whether a browser window can be opened."""
  names = ('DISPLAY', 'WAYLAND_DISPLAY')
  return sys.platform == 'darwin' or any(os.environ.get(name) for name in names)


if __name__ == '__main__':
  main()
