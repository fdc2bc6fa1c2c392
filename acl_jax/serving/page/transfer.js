// SPDX-License-Identifier: Apache-2.0
// Sends turns whole: typed ones, files, and all of a conversation that the server does
// not know, because it is an old one or because the connection was lost.

import { appendAudio, createItem, updateSession } from './requests.js';
import { RATE } from './sound.js';
import { Stream } from './stream.js';

// The server takes events of up to 15 MiB; base64 is 4/3 of the sound.
const MAX_ITEM_SAMPLES = 180 * RATE;
const PIECE_SAMPLES = 10 * RATE;

/** Gives the whole conversation to the server, and asks for a reply that is due. */
export async function restore(session) {
  const { connection, conversation } = session;
  const { generation } = connection;
  session.configure();
  for (const turn of [...conversation.turns]) {
    if (turn.status !== 'recording') await sendTurn(session, turn, generation);
  }
  if (generation !== connection.generation) return;
  const last = conversation.turns.at(-1);
  if (last?.status === 'waiting') session.ask(last);
}

/** Sends a turn; returns whether there was a connection. */
export async function sendTurn(
  session,
  turn,
  generation = session.connection.generation,
) {
  const { connection, keeper } = session;
  const isRecorded = turn.role === 'user' && turn.seconds;
  const pcm = isRecorded ? await keeper.sound(turn) : null;
  if (generation !== connection.generation || connection.status !== 'open') return false;
  const isLong = pcm?.length > MAX_ITEM_SAMPLES;
  if (isLong) sendLong(session, turn, pcm);
  const event = createItem(turn, isLong ? null : pcm);
  // The text after a long sound is an item of its own; the server joins the two.
  if (event && isLong) delete event.item.id;
  if (event) connection.send(event);
  return true;
}

/** Sends sound in pieces, as if it were spoken while a button is held. */
function sendLong(session, turn, pcm) {
  const { connection, voice, model } = session;
  connection.send(updateSession({ voice, model, handsFree: false }));
  connection.send({ type: 'input_audio_buffer.clear' });
  for (let at = 0; at < pcm.length; at += PIECE_SAMPLES) {
    connection.send(appendAudio(pcm.subarray(at, at + PIECE_SAMPLES)));
  }
  connection.send({ type: 'input_audio_buffer.commit' });
  session.committed.push(turn);
  session.stream = new Stream();
  session.configure();
}
