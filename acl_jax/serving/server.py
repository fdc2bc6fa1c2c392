# SPDX-License-Identifier: Apache-2.0
"""The running server: its socket, its start, and its end in good order."""

import asyncio
import socket
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from acl_jax.assistant import Assistant
from acl_jax.config.serving import ServeConfig
from acl_jax.generation.live import LiveConfig, LiveEngine
from acl_jax.hearing.hearing import Hearing
from acl_jax.serving.app import make_app
from acl_jax.serving.service import Service
from acl_jax.serving.voice import VoiceError, make_voice

MAX_CONNECTIONS = 10_240  # where the system sets no limit
_POLL_SECONDS = 0.05
_CLOSE_SECONDS = 5.0  # for connections after their replies have ended


def parse_origin(text: str) -> str:
  """Check the origin of a site: scheme, host and perhaps a port, nothing else."""
  parts = urlsplit(text)
  is_web = parts.scheme in ('http', 'https') and parts.hostname
  if not is_web or f'{parts.scheme}://{parts.netloc}' != text:
    raise ValueError(f'--allow_origin={text} is not an origin like https://example.org')
  return text.lower()


def bind(host: str, port: int) -> socket.socket:
  """Return a socket bound to an address; OSError if it is in use."""
  bound = None
  try:
    family, kind, *_, address = socket.getaddrinfo(
      host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(address)
  except OSError as error:
    if bound is not None:
      bound.close()
    raise OSError(f'cannot listen at {host} port {port}: {error.strerror}') from None
  return bound


def make_service(name: str, assistant: Assistant, limits: ServeConfig) -> Service:
  """Return a service of a model; nothing is compiled yet."""
  config = LiveConfig(
    limits.slots, limits.context, limits.cached_tokens, limits.max_queue
  )
  model, tokenizer = assistant.model, assistant.text.tokenizer
  engine = LiveEngine(model.llama, config, tokenizer.stop_ids)
  hearing = Hearing(
    model,
    tokenizer,
    assistant.decode_transcript,
    max_seconds=limits.max_audio_seconds,
  )
  return Service(name, assistant, engine, hearing, make_voice(limits.voice), limits)


def serve(
  service: Service, bound: socket.socket, key: str = '', origins: Sequence[str] = ()
) -> None:
  """Serve until SIGTERM or SIGINT; returns when all is closed."""
  _allow_many_connections()
  app = make_app(service, key, origins)
  config = uvicorn.Config(
    app,
    log_level='warning',
    lifespan='off',
    access_log=False,
    server_header=False,
    ws='websockets-sansio',
    ws_max_size=service.limits.max_body_bytes,
    timeout_graceful_shutdown=int(_CLOSE_SECONDS),
  )
  host, port = bound.getsockname()[:2]
  url = f'http://{f"[{host}]" if ":" in host else host}:{port}/'
  asyncio.run(_run(service, Server(config, service), bound, url))


def _allow_many_connections() -> None:
  """Raise the limit of open files, often 1,024, as far as this process may."""
  try:
    import resource
  except ImportError:  # Windows has no such limit
    return
  _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  # macOS refuses "unlimited" as the limit in force.
  limit = MAX_CONNECTIONS if hard == resource.RLIM_INFINITY else hard
  resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


async def _run(
  service: Service, server: 'Server', bound: socket.socket, url: str
) -> None:
  """Listen, warm up meanwhile, and end what was started."""
  serving = asyncio.create_task(server.serve(sockets=[bound]))
  warming = asyncio.create_task(_warm_up(service, url))
  voice: Any = service.voice
  try:
    await asyncio.wait((serving, warming), return_when=asyncio.FIRST_COMPLETED)
    if warming.done() and warming.exception():
      server.should_exit = True
    await serving
    if warming.done():
      warming.result()
  finally:
    warming.cancel()
    await asyncio.to_thread(service.close, 0.0)
    if voice is not None:
      await voice.close()


async def _warm_up(service: Service, url: str) -> None:
  """Compile everything and start the voice; a voice that fails is only reported."""
  start = time.monotonic()
  parts: Any = service

  def compile_all() -> None:
    parts.engine.warm_up(lambda line: _report(f'engine: {line}'))
    parts.hearing.warm_up(_report)
    parts.engine.start()

  if parts.voice is not None:
    try:
      await parts.voice.start()
    except VoiceError as error:
      _report(f'no voice: {error}')
      service.voice = None
  await asyncio.to_thread(compile_all)
  service.metrics.count_compilations()
  service.ready = True
  _report(f'ready after {time.monotonic() - start:.0f} s: {url}')


def _report(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


class Server(uvicorn.Server):
  """Ends in order: refuses requests, waits for those in progress, then closes.

  A second signal ends at once.
  """

  def __init__(self, config: uvicorn.Config, service: Service):
    super().__init__(config)
    self._service, self._draining = service, None

  def handle_exit(self, sig: int, frame: FrameType | None) -> None:
    """Take a signal."""
    if self._service.closing or not self._service.ready:
      self.should_exit = self.force_exit = True
    self._service.closing = True

  async def on_tick(self, counter: int) -> bool:
    """Return whether to close, ten times a second."""
    if self._service.closing and self._draining is None:
      self._draining = time.monotonic() + self._service.limits.grace_seconds
    is_over = self._draining is not None and (
      self._service.is_idle or time.monotonic() > self._draining
    )
    self.should_exit |= is_over
    return await super().on_tick(counter)
