# SPDX-License-Identifier: Apache-2.0
"""Realtime conversations over a WebSocket, as OpenAI's Realtime API defines them.

frame ─► Session ─┬─ Listening ─► InputBuffer (turns) ─► Utterance (heard meanwhile)
                  ├─ Conversation of items
                  └─ Response ─► Reply (text) ─► Speaker (sound) ─► Outbox
"""

from acl_jax.serving.realtime.endpoint import routes

__all__ = ['routes']
