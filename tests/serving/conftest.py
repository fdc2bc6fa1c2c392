# SPDX-License-Identifier: Apache-2.0
import contextlib
import socket
import threading
import time

import pytest
import uvicorn
from starlette.testclient import TestClient

from acl_jax.serving.app import make_app
from tests.serving.fakes import make_service


@pytest.fixture
def service():
  service = make_service()
  yield service
  service.engine.release()
  service.close(0.0)


@pytest.fixture
def client(service):
  with TestClient(make_app(service), base_url='http://localhost:8000') as client:
    yield client


@contextlib.contextmanager
def running(app):
  """Serve in a thread; yields the URL."""
  bound = socket.create_server(('127.0.0.1', 0))
  config = uvicorn.Config(app, lifespan='off', log_level='critical', ws='none')
  server = uvicorn.Server(config)
  thread = threading.Thread(target=server.run, kwargs={'sockets': [bound]})
  thread.start()
  try:
    while not server.started:
      time.sleep(0.01)
    yield f'http://127.0.0.1:{bound.getsockname()[1]}'
  finally:
    server.should_exit = server.force_exit = True
    thread.join()


@pytest.fixture
def url(service):
  with running(make_app(service)) as url:
    yield url
