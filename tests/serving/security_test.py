# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse

from acl_jax.serving import app as app_module
from acl_jax.serving.app import make_app
from acl_jax.serving.security import Gate
from tests.serving.refusals_test import refusal

MODELS = '/v1/models'
SITE = 'https://example.org'


@pytest.mark.parametrize(
  'host, served',
  [
    ('localhost', True),
    ('localhost:8000', True),
    ('127.0.0.1:8000', True),
    ('[::1]:8000', True),
    ('192.168.7.5', True),  # an address cannot be rebound
    ('example.org', True),
    ('EXAMPLE.org:80', True),
    ('evil.example', False),
    ('localhost.evil.example', False),
    ('127.0.0.1.evil.example', False),
    ('evil@localhost.evil', False),
    ('', False),
    ('[', False),
    ('x' * 9_999, False),
  ],
)
def test_hosts(service, host, served):
  with TestClient(make_app(service, origins=[SITE])) as client:
    response = client.get(MODELS, headers={'Host': host})
  assert response.status_code == (200 if served else 400)


@pytest.mark.parametrize(
  'origin, served',
  [
    ('http://localhost:3000', True),
    ('http://[::1]:8000', True),
    ('http://192.168.7.5:8000', True),  # the page of this server
    (SITE, True),
    ('https://example.org.evil.example', False),
    ('http://example.org', False),
    ('https://evil.example', False),
    ('http://192.168.7.6:8000', False),
    ('http://localhost.evil.example', False),
    ('ftp://localhost', False),
    ('null', False),
    ('', False),
    ('http://[', False),
  ],
)
def test_origins(service, origin, served):
  headers = {'Host': '192.168.7.5:8000', 'Origin': origin}
  with TestClient(make_app(service, origins=[SITE])) as client:
    response = client.get(MODELS, headers=headers)
    assert response.status_code == (200 if served else 403)
    if not served:
      assert refusal(response, 403)['type'] == 'permission_error'
      assert 'access-control-allow-origin' not in response.headers
    elif '192' not in origin:
      assert response.headers['access-control-allow-origin'] == origin
    preflight = {
      **headers,
      'Access-Control-Request-Method': 'POST',
      'Access-Control-Request-Headers': 'authorization,x-stainless-os',
    }
    response = client.options('/v1/chat/completions', headers=preflight)
    assert response.is_success == (served and '192' not in origin)


def test_key(service):
  app = make_app(service, key='sécret')
  with TestClient(app, base_url='http://localhost') as client:
    for path in ('/health', '/ready'):
      assert client.get(path).status_code == 200
    for path in (MODELS, '/metrics', '/v1/nothing'):
      response = client.get(path)
      assert refusal(response, 401)['type'] == 'authentication_error'
      assert response.headers['www-authenticate'] == 'Bearer'
    for value in ('Bearer', 'Bearer x', 'Basic sécret', 'sécret', 'Bearer sécret2'):
      headers = {'Authorization': value.encode()}
      refusal(client.get(MODELS, headers=headers), 401)
    for value in ('Bearer sécret', 'bearer  sécret'):
      headers = {'Authorization': value.encode()}
      assert client.get(MODELS, headers=headers).status_code == 200


def test_websockets_have_the_same_gate(service):
  async def echo(websocket):
    await websocket.accept('realtime')
    await websocket.send_text('in')
    await websocket.close()

  app = Starlette(routes=[WebSocketRoute('/v1/realtime', echo)])
  client = TestClient(Gate(app, service, 'key', []))
  good = ['realtime', 'openai-insecure-api-key.key']
  host = {'Host': 'localhost'}
  options = dict(subprotocols=good, headers={**host})  # the client adds to it
  with client.websocket_connect('/v1/realtime', **options) as session:
    assert session.receive_text() == 'in'
  header = {'Authorization': 'Bearer key', **host}
  with client.websocket_connect('/v1/realtime', headers=header) as session:
    assert session.receive_text() == 'in'
  for options, status in (
    ({'headers': host}, 401),
    ({'headers': host, 'subprotocols': ['openai-insecure-api-key.x']}, 401),
    ({'headers': {**header, 'Origin': 'https://evil.example'}}, 403),
    ({'headers': {**header, 'Host': 'evil.example'}}, 400),
  ):
    with pytest.raises(WebSocketDenialResponse) as caught:
      with client.websocket_connect('/v1/realtime', **copy.deepcopy(options)):
        pass
    assert caught.value.status_code == status


def test_page(service, monkeypatch, tmp_path):
  (tmp_path / 'index.html').write_text('<title>x</title>')
  (tmp_path / 'talk.js').write_text('1')
  (tmp_path.parent / 'secret.js').write_text('2')
  monkeypatch.setattr(app_module, 'PAGE', tmp_path)
  app = make_app(service, key='key')
  with TestClient(app, base_url='http://localhost') as client:
    for path, kind in (('/', 'text/html'), ('/page/talk.js', 'text/javascript')):
      response = client.get(path)
      assert response.headers['content-type'].startswith(kind)
      assert response.headers['cache-control'] == 'no-cache'
      policy = response.headers['content-security-policy']
      assert policy.startswith("default-src 'none'; script-src 'self'")
      assert 'unsafe' not in policy
      assert response.headers['x-content-type-options'] == 'nosniff'
    for path in ('/page/../secret.js', '/page/%2e%2e%2fsecret.js', '/page/', '/page'):
      response = client.get(path, follow_redirects=False)
      assert response.status_code in (404, 401, 307, 405), path
  assert client.get('/health').headers['cache-control'] == 'no-store'
