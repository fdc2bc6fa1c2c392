// SPDX-License-Identifier: Apache-2.0
// Events of the Realtime API that the page sends and that have more than one field.

import { RATE, toBase64 } from './sound.js';

const SERVER_VAD = {
  type: 'server_vad',
  create_response: true,
  interrupt_response: true,
};

/** Spoken or written replies; turns found by the server or given by the page. */
export function updateSession({ voice, handsFree, model }) {
  const format = { type: 'audio/pcm', rate: RATE };
  const input = {
    format,
    transcription: { model },
    turn_detection: handsFree ? SERVER_VAD : null,
  };
  return {
    type: 'session.update',
    session: {
      type: 'realtime',
      output_modalities: [voice ? 'audio' : 'text'],
      audio: { input, output: { format } },
      include: ['item.input_audio_transcription.logprobs'],
    },
  };
}

/** A turn as an item of the conversation, or null if there is nothing in it. */
export function createItem({ id, role, text }, pcm) {
  const content = [];
  if (pcm) content.push({ type: 'input_audio', audio: toBase64(pcm) });
  const type = role === 'assistant' ? 'output_text' : 'input_text';
  if (text) content.push({ type, text });
  if (!content.length) return null;
  const item = { id, type: 'message', role, content };
  return { type: 'conversation.item.create', item };
}

export function appendAudio(pcm) {
  return { type: 'input_audio_buffer.append', audio: toBase64(pcm) };
}

/** Cuts a spoken reply where the visitor stopped hearing it. */
export function truncateItem(id, seconds) {
  return {
    type: 'conversation.item.truncate',
    item_id: id,
    content_index: 0,
    audio_end_ms: Math.floor(seconds * 1000),
  };
}
