// SPDX-License-Identifier: Apache-2.0
// One conversation with the server: what the visitor does becomes events of the
// Realtime API; events.js takes in what the server answers.

import { handle } from './events.js';
import { Keeper } from './keeper.js';
import { appendAudio, truncateItem, updateSession } from './requests.js';
import { join, RATE } from './sound.js';
import { Stream } from './stream.js';
import { restore, sendTurn } from './transfer.js';

const SHORTEST_SECONDS = 0.25;

/** Dispatches open, turn, drop, saved, heard, replied, notice; `change` with the state. */
export class Session extends EventTarget {
  constructor(connection, player, storage) {
    super();
    Object.assign(this, { connection, player });
    this.keeper = new Keeper(storage, (text) => this.emit('notice', text));
    this.voice = true; // replies are spoken
    this.handsFree = false;
    this.forget();
    connection.addEventListener('event', ({ detail }) => handle(this, detail));
    connection.addEventListener('status', ({ detail }) => {
      if (detail === 'open') restore(this);
      else this.breakOff();
    });
    player.addEventListener('start', () => this.changed());
    player.addEventListener('end', () => this.changed());
  }

  /** Forgets what concerns one connection only. */
  forget() {
    this.recording = null; // {turn, chunks, generation}
    this.committed = []; // turns whose item the server has not named yet
    this.reply = null; // {id, turn, asked}: the response in progress
    this.replySound = null; // {turn, chunks}
    this.ignored = new Set(); // responses that were interrupted
    this.ignoreNext = false; // one that was, before it had a name
    this.stream = new Stream();
    this.speaker = null; // hands-free: the turn that is being spoken
  }

  /** 'recording' | 'hearing' | 'thinking' | 'speaking' | 'listening' | 'idle' */
  get state() {
    if (this.recording) return 'recording';
    if (this.speaker) return 'hearing';
    if (this.player.playing) return 'speaking';
    if (this.reply) return 'thinking';
    return this.handsFree ? 'listening' : 'idle';
  }

  emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  changed(turn) {
    if (turn) this.emit('turn', turn);
    if (turn && turn.status !== 'streaming' && this.keeper.save()) this.emit('saved');
    this.emit('change', this.state);
  }

  open(conversation) {
    this.player.stop();
    this.forget();
    this.conversation = conversation;
    this.keeper.open(conversation);
    this.connection.connect();
    this.changed();
  }

  addTurn(fields) {
    const key = Array.from(crypto.getRandomValues(new Uint32Array(3)), (part) =>
      part.toString(36),
    ).join('');
    const turn = { key, id: `item_${key}`, text: '', ...fields };
    this.conversation.turns.push(turn);
    this.changed(turn);
    return turn;
  }

  dropTurn(turn) {
    const { turns } = this.conversation;
    if (turns.includes(turn)) turns.splice(turns.indexOf(turn), 1);
    this.emit('drop', turn);
    this.changed();
  }

  find(id) {
    return this.conversation.turns.find((turn) => turn.id === id);
  }

  configure() {
    this.connection.send(updateSession(this));
  }

  setVoice(voice) {
    this.voice = voice;
    this.configure();
  }

  setHandsFree(handsFree) {
    this.handsFree = handsFree;
    this.stream = new Stream(); // the server's clock starts anew, too
    if (!handsFree) {
      if (this.speaker) this.dropTurn(this.speaker);
      this.speaker = null;
      this.connection.send({ type: 'input_audio_buffer.clear' });
    }
    this.configure();
    this.changed();
  }

  ask(turn) {
    turn.status = 'sent';
    this.reply = { id: null, turn: null, asked: performance.now() };
    this.connection.send({ type: 'response.create' });
    this.changed(turn);
  }

  /** A typed message, a file or both, as one turn. */
  async sendMessage({ text, pcm, name }) {
    this.interrupt();
    const turn = this.addTurn({ role: 'user', text, name, status: 'waiting' });
    if (pcm) this.keeper.keepSound(turn, pcm);
    this.changed(turn);
    // Without a connection the turn waits, and is sent with the rest when there is one.
    if (await sendTurn(this, turn)) this.ask(turn);
  }

  startRecording() {
    this.interrupt();
    const turn = this.addTurn({ role: 'user', status: 'recording' });
    const { generation, status } = this.connection;
    this.recording = { turn, chunks: [], generation: status === 'open' && generation };
    this.changed();
  }

  /** Takes in a piece of the microphone's sound. */
  hear(pcm) {
    const { recording, connection } = this;
    if (recording) recording.chunks.push(pcm);
    if (recording && recording.generation !== connection.generation) return;
    const sent = (recording || this.handsFree) && connection.send(appendAudio(pcm));
    if (sent) this.stream.push(pcm);
  }

  async stopRecording() {
    const { turn, chunks, generation } = this.recording;
    const { connection } = this;
    const pcm = join(chunks);
    if (pcm.length < SHORTEST_SECONDS * RATE) {
      this.cancelRecording();
      this.emit('notice', 'That was too short. Hold the button while you speak.');
      return;
    }
    this.recording = null;
    turn.status = 'waiting';
    this.keeper.keepSound(turn, pcm);
    this.changed(turn);
    if (generation === connection.generation && connection.status === 'open') {
      connection.send({ type: 'input_audio_buffer.commit' });
      this.committed.push(turn);
      this.ask(turn);
    } else if (await sendTurn(this, turn)) {
      this.ask(turn); // the connection broke meanwhile, so it was sent whole
    }
  }

  cancelRecording() {
    const { turn } = this.recording;
    this.recording = null;
    this.connection.send({ type: 'input_audio_buffer.clear' });
    this.dropTurn(turn);
  }

  /** Silence at once; the server cuts the reply where the visitor stopped hearing it. */
  interrupt() {
    const { reply, player } = this;
    const playing = this.conversation.turns.find(({ key }) => key === player.playing);
    const turn = reply?.turn ?? playing;
    const { live } = turn ?? {}; // a replayed sound stops, but its turn stays whole
    const seconds = turn === playing ? player.stop() : 0;
    player.stop();
    this.reply = null;
    if (reply) {
      if (reply.id) this.ignored.add(reply.id);
      else this.ignoreNext = true;
      this.connection.send({ type: 'response.cancel' });
    }
    if (live) this.cut(turn, seconds);
    this.changed();
  }

  cut(turn, seconds) {
    const received = this.finishSound(turn);
    Object.assign(turn, { live: false, status: 'cut' });
    if (turn.spoken) {
      const heard = Math.min(seconds, received);
      this.keeper.trimSound(turn, heard).then(() => this.changed(turn));
      this.connection.send(truncateItem(turn.id, heard));
      this.connection.send({ type: 'conversation.item.retrieve', item_id: turn.id });
      // A guess, until the server reports where it cut.
      const end = Math.round(turn.text.length * (received && heard / received));
      turn.unheard = turn.text.slice(end);
      turn.text = turn.text.slice(0, end);
    }
    this.changed(turn);
  }

  /** Keeps the sound of a reply, as far as it came; returns its seconds. */
  finishSound(turn) {
    const chunks = this.replySound?.turn === turn ? this.replySound.chunks : [];
    this.replySound = null;
    if (chunks.length) this.keeper.keepSound(turn, join(chunks));
    return turn.seconds ?? 0;
  }

  /** The connection is lost: what was in progress ends here. */
  breakOff() {
    const { reply, recording, conversation } = this;
    if (!conversation) return;
    const last = conversation.turns.at(-1);
    if (reply?.turn) {
      this.finishSound(reply.turn);
      Object.assign(reply.turn, { status: 'failed', live: false });
      this.player.finish(reply.turn.key);
      this.changed(reply.turn);
    } else if (reply && last?.role === 'user') {
      last.status = 'waiting'; // asked again when the server is back
    }
    if (this.speaker) this.dropTurn(this.speaker);
    this.forget();
    this.recording = recording;
    this.changed();
  }
}
