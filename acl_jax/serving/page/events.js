// SPDX-License-Identifier: Apache-2.0
// What each event of the server changes in a session.

import { fromBase64 } from './sound.js';

// Events that cross on the wire: a reply may end just before it is cancelled.
const HARMLESS = new Set(['response_not_active', 'item_not_found']);

export function handle(session, event) {
  const { response_id: response } = event;
  if (response && session.ignored.has(response)) return;
  handlers[event.type]?.(session, event);
}

const handlers = {
  'session.created'(session, { session: { model, output_modalities } }) {
    session.model = model;
    session.voiceless = !output_modalities.includes('audio');
    if (session.voiceless) session.voice = false;
  },

  error(session, { error }) {
    if (HARMLESS.has(error.code)) return;
    session.emit('notice', error.message ?? 'The server reports an error.');
    if (error.code === 'input_audio_buffer_commit_empty') session.committed.shift();
    if (session.reply && !session.reply.id) session.reply = null;
    session.changed();
  },

  // Speech of the visitor.

  'input_audio_buffer.speech_started'(session, { item_id, audio_start_ms }) {
    if (!session.handsFree) return;
    session.interrupt();
    session.stream.start(audio_start_ms);
    session.speaker = session.addTurn({
      id: item_id,
      role: 'user',
      status: 'recording',
    });
    session.changed();
  },

  'input_audio_buffer.speech_stopped'(session, { audio_end_ms }) {
    const turn = session.speaker;
    if (!turn) return;
    session.speaker = null;
    session.keeper.keepSound(turn, session.stream.end(audio_end_ms));
    turn.status = 'sent';
    session.reply = { id: null, turn: null, asked: performance.now() };
    session.changed(turn);
  },

  'input_audio_buffer.committed'(session, { item_id }) {
    if (session.find(item_id)) return; // the server found that turn itself
    const turn = session.committed.shift();
    if (!turn) return;
    turn.id = item_id;
    session.changed(turn);
  },

  'conversation.item.input_audio_transcription.delta'(session, { item_id, delta }) {
    const turn = session.find(item_id);
    if (!turn) return;
    turn.heard = { text: (turn.heard?.text ?? '') + delta, tokens: [] };
    session.changed(turn);
  },

  'conversation.item.input_audio_transcription.completed'(session, event) {
    const turn = session.find(event.item_id);
    if (!turn) return;
    const tokens = (event.logprobs ?? []).map(({ token, logprob, alternatives }) => {
      return { token, logprob, alternatives };
    });
    turn.heard = { text: event.transcript.trim(), tokens };
    session.changed(turn);
    session.emit('heard', turn);
  },

  'conversation.item.input_audio_transcription.failed'(session, { item_id, error }) {
    const turn = session.find(item_id);
    if (turn) turn.heard = null;
    session.emit('notice', `What was heard is not known: ${error?.message ?? 'it failed'}`);
  },

  // The reply.

  'response.created'(session, { response }) {
    if (session.ignoreNext) {
      session.ignoreNext = false;
      session.ignored.add(response.id);
      return;
    }
    session.reply ??= { turn: null, asked: performance.now() };
    session.reply.id = response.id;
    session.changed();
  },

  'response.output_item.added'(session, { item }) {
    if (!session.reply || item.role !== 'assistant') return;
    const turn = session.addTurn({
      id: item.id,
      role: 'assistant',
      status: 'streaming',
    });
    turn.live = true; // may still be interrupted; not so after a reload
    session.reply.turn = turn;
    session.replySound = { turn, chunks: [] };
    session.changed(turn);
  },

  'response.output_text.delta': addText,
  'response.output_audio_transcript.delta': addText,

  'response.output_audio.delta'(session, { item_id, delta }) {
    const turn = session.find(item_id);
    if (!turn || session.replySound?.turn !== turn) return;
    const pcm = fromBase64(delta);
    turn.spoken = true;
    turn.timing ??= {};
    turn.timing.sound ??= sinceAsked(session);
    session.replySound.chunks.push(pcm);
    session.player.append(turn.key, pcm);
  },

  'response.done'(session, { response, timing }) {
    if (session.ignored.delete(response.id)) return;
    const turn = session.reply?.turn;
    session.reply = null;
    if (turn) {
      session.finishSound(turn);
      session.player.finish(turn.key);
      turn.timing = { ...turn.timing, server: response.timing ?? timing ?? null };
      turn.status = response.status === 'completed' ? 'done' : response.status;
      turn.live &&= session.player.playing === turn.key;
      session.changed(turn);
      session.emit('replied', turn);
    }
    const { error } = response.status_details ?? {};
    if (response.status === 'failed') {
      session.emit('notice', error?.message ?? 'The reply failed on the server.');
    }
    session.changed();
  },

  'conversation.item.retrieved'(session, { item }) {
    const turn = session.find(item.id);
    const text = item.content?.map((part) => part.transcript ?? part.text ?? '').join('');
    if (turn?.status !== 'cut' || text === undefined) return;
    const whole = turn.text + (turn.unheard ?? '');
    if (!whole.startsWith(text)) return;
    Object.assign(turn, { text, unheard: whole.slice(text.length) });
    session.changed(turn);
  },
};

function addText(session, { item_id, delta }) {
  const turn = session.find(item_id);
  if (!turn) return;
  turn.timing ??= {};
  turn.timing.word ??= sinceAsked(session);
  turn.text += delta;
  session.changed(turn);
}

/** Seconds since the visitor stopped speaking or pressed Send. */
function sinceAsked({ reply }) {
  return reply ? (performance.now() - reply.asked) / 1000 : undefined;
}
