# SPDX-License-Identifier: Apache-2.0
"""The application: routes, middleware, the page."""

from collections.abc import Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from acl_jax.serving.audio_routes import Speech, Transcriptions
from acl_jax.serving.completions import Completions
from acl_jax.serving.errors import HANDLERS
from acl_jax.serving.metrics import CONTENT_TYPE
from acl_jax.serving.realtime import routes as realtime_routes
from acl_jax.serving.security import LOOPBACK_ORIGIN, Gate
from acl_jax.serving.service import Service

PAGE = Path(__file__).parent / 'page'


def make_app(service: Service, key: str = '', origins: Sequence[str] = ()) -> Starlette:
  """Return the ASGI application.

  key: bearer key that requests must have; '' for none. origins: of pages besides those
  of this machine that may use the server, such as https://example.org.
  """
  return Starlette(
    routes=_routes(service),
    middleware=[
      Middleware(CountRequests, service=service),
      Middleware(
        CORSMiddleware,
        allow_origins=tuple(origins),
        allow_origin_regex=LOOPBACK_ORIGIN,
        allow_methods=('GET', 'POST'),
        allow_headers=('*',),
        expose_headers=('Retry-After',),
      ),
      Middleware(Gate, service=service, key=key, origins=origins),
    ],
    exception_handlers=HANDLERS,  # type: ignore[arg-type]
  )


def _routes(service: Service) -> list[BaseRoute]:
  """Return all routes."""

  async def models(request: Request) -> Response:
    return JSONResponse({'object': 'list', 'data': [_model(service)]})

  async def model(request: Request) -> Response:
    service.check_model(request.path_params['name'])
    return JSONResponse(_model(service))

  async def health(request: Request) -> Response:
    return JSONResponse({'status': 'ok'})

  async def ready(request: Request) -> Response:
    service.check_open()
    return JSONResponse({'status': 'ready'})

  async def metrics(request: Request) -> Response:
    return Response(service.metrics.render(), headers={'Content-Type': CONTENT_TYPE})

  async def index(request: Request) -> Response:
    return FileResponse(PAGE / 'index.html', headers={'Cache-Control': 'no-cache'})

  return [
    Route('/', index),
    Route('/health', health),
    Route('/ready', ready),
    Route('/metrics', metrics),
    Route('/v1/models', models),
    Route('/v1/models/{name:path}', model),
    Route('/v1/chat/completions', Completions(service).__call__, methods=['POST']),
    Route(
      '/v1/audio/transcriptions', Transcriptions(service).__call__, methods=['POST']
    ),
    Route('/v1/audio/speech', Speech(service).__call__, methods=['POST']),
    *realtime_routes(service),
    Mount('/page', PageFiles(directory=PAGE)),
  ]


def _model(service: Service) -> dict[str, object]:
  return {
    'id': service.name,
    'object': 'model',
    'created': service.created,
    'owned_by': 'acl_jax',
  }


class PageFiles(StaticFiles):
  """The files of the page, which browsers ask for again after an update."""

  def file_response(self, *args, **kwargs) -> Response:
    response = super().file_response(*args, **kwargs)
    response.headers['Cache-Control'] = 'no-cache'
    return response


class CountRequests:
  """ASGI middleware: counts answered requests by route and status."""

  def __init__(self, app: ASGIApp, service: Service):
    self.app, self._service = app, service

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    if scope['type'] != 'http':
      return await self.app(scope, receive, send)

    async def counted(message: Message) -> None:
      if message['type'] == 'http.response.start':
        route = getattr(scope.get('route'), 'path', 'other')
        self._service.metrics.requests.labels(route, message['status']).inc()
      await send(message)

    await self.app(scope, receive, counted)
