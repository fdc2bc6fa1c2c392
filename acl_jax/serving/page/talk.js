// SPDX-License-Identifier: Apache-2.0
// The page: makes the parts and connects them.

import { Archive } from './archive.js';
import { Composer } from './composer.js';
import { Connection } from './connection.js';
import { followUnsureWords } from './heard.js';
import { Player } from './player.js';
import { obstacle, Recorder } from './recorder.js';
import { Session } from './session.js';
import { level } from './sound.js';
import { Storage } from './storage.js';
import { TalkButton } from './talk_button.js';
import { TurnsView } from './turns.js';
import { LiveWaveform } from './waveform.js';

const get = (id) => document.getElementById(id);

const storage = new Storage();
const player = new Player();
const connection = new Connection();
const session = new Session(connection, player, storage);
const live = new LiveWaveform(get('live'));
const recorder = new Recorder((pcm) => {
  session.hear(pcm);
  if (session.state !== 'speaking') live.push(level(pcm));
});
const view = new TurnsView(
  {
    list: get('turns'),
    scroll: get('scroll'),
    welcome: get('welcome'),
    template: get('turn-template'),
  },
  replay,
);

// Messages.

function notice(text) {
  get('notice').querySelector('p').textContent = text;
  get('notice').hidden = !text;
}

function announce(text) {
  get('announcer').textContent = text;
}

get('notice').querySelector('button').addEventListener('click', () => notice(''));
session.addEventListener('notice', ({ detail }) => notice(detail));

// Speech in.

async function openMicrophone() {
  player.unlock();
  try {
    await recorder.open();
  } catch (error) {
    notice(error.message);
    return false;
  }
  notice('');
  return true;
}

const talk = new TalkButton(get('talk'), {
  async start() {
    if (session.handsFree) {
      await setHandsFree(false);
      return false;
    }
    if (!(await openMicrophone())) return false;
    session.startRecording();
    recorder.start();
    announce('Recording');
    return true;
  },
  async stop() {
    await recorder.stop();
    live.clear();
    if (session.recording) session.stopRecording();
  },
  async cancel() {
    await recorder.stop();
    live.clear();
    if (session.recording) session.cancelRecording();
    announce('Recording dropped');
  },
});

async function setHandsFree(on) {
  const opened = on && (await openMicrophone());
  if (opened) recorder.start();
  else await recorder.stop();
  live.clear();
  get('hands-free').checked = opened;
  session.setHandsFree(opened);
}

get('hands-free').addEventListener('change', async ({ target }) => {
  if (talk.recording) talk.abandon();
  await setHandsFree(target.checked);
});
get('voice').addEventListener('change', ({ target }) => session.setVoice(target.checked));

// Text and files.

const composer = new Composer({
  form: get('composer'),
  message: get('message'),
  file: get('file'),
  attach: get('attach'),
  attachment: get('attachment'),
  drop: get('drop'),
  onSend: send,
  onError: notice,
});

function send(message) {
  player.unlock();
  if (talk.recording) talk.abandon();
  notice('');
  session.sendMessage(message);
}

for (const button of get('welcome').querySelectorAll('button')) {
  button.addEventListener('click', () => {
    send({ text: button.textContent });
    composer.message.focus();
  });
}
get('stop').addEventListener('click', () => {
  session.interrupt();
  composer.message.focus();
});
document.addEventListener('keydown', ({ key }) => {
  if (key === 'Escape' && ['thinking', 'speaking'].includes(session.state)) {
    session.interrupt();
  }
});

// Sound out.

async function replay(turn) {
  const stops = player.playing === turn.key;
  session.interrupt();
  if (stops) return;
  player.unlock();
  const pcm = await session.keeper.sound(turn);
  if (pcm) player.play(turn.key, pcm);
  else notice('This sound is not kept in the browser any more.');
}

function turnOf(key) {
  return session.conversation.turns.find((turn) => turn.key === key);
}

let lastBar = 0; // the bars move as fast as for the microphone, whatever the display

player.addEventListener('progress', ({ detail: { key, seconds } }) => {
  const turn = turnOf(key);
  if (session.state === 'speaking' && performance.now() - lastBar >= 40) {
    live.push(player.level);
    lastBar = performance.now();
  }
  if (turn) view.progress(turn, Math.min(1, seconds / (turn.seconds || Infinity)), true);
});
player.addEventListener('end', ({ detail }) => {
  const turn = turnOf(detail);
  live.clear();
  if (!turn) return;
  turn.live = false;
  view.progress(turn, 0, false);
});

// What is shown of the session.

const HINTS = {
  recording: () => (talk.latched ? 'Tap to send, Escape to drop' : 'Let go to send'),
  hearing: () => 'Hearing you',
  thinking: () => 'Thinking',
  speaking: () => 'Talk to interrupt',
  listening: () => 'Just speak',
  idle: () =>
    matchMedia('(pointer: coarse)').matches
      ? 'Hold or tap to talk'
      : 'Hold to talk, or hold the space bar',
};

session.addEventListener('change', ({ detail: state }) => {
  document.body.dataset.state = state;
  get('hint').textContent = HINTS[state]();
  get('talk').setAttribute('aria-pressed', state === 'recording');
  const label = session.handsFree ? 'Stop listening' : 'Talk';
  get('talk').setAttribute('aria-label', label);
  get('stop').hidden = !['thinking', 'speaking'].includes(state);
});
session.addEventListener('turn', ({ detail }) => view.show(detail));
session.addEventListener('drop', ({ detail }) => view.drop(detail));
session.addEventListener('heard', ({ detail }) => {
  announce(`Heard: ${detail.heard.text || 'no words'}`);
});
session.addEventListener('replied', ({ detail }) => {
  // A spoken reply is heard already.
  if (!detail.spoken) announce(`Reply: ${detail.text}`);
});

const STATUS = {
  connecting: 'Connecting',
  open: 'Ready',
  waiting: 'The server cannot be reached; trying again',
  locked: 'The server asks for a key: open the page with #key=… in its address',
};

connection.addEventListener('status', ({ detail }) => {
  get('status').dataset.status = detail;
  get('status').querySelector('.words').textContent = STATUS[detail];
  get('retry').hidden = detail !== 'waiting';
  get('voice').checked = session.voice;
  get('voice').disabled = session.voiceless;
});
get('retry').addEventListener('click', () => connection.retryNow());

// Conversations.

const archive = new Archive(session, storage, view, () => {
  if (talk.recording) talk.abandon();
  notice('');
});

get('new').addEventListener('click', () => {
  archive.begin();
  composer.message.focus();
});

followUnsureWords(get('scroll'), get('alternatives'));
await archive.openLatest();
notice(obstacle());

// For the console and for tests.
window.talk = { connection, player, recorder, session, storage };
