// SPDX-License-Identifier: Apache-2.0
// The WebSocket to /v1/realtime; it comes back by itself when the server does.
//
// A server may ask for a key. A link of the form http://host/#key=… has it; it is
// remembered until the tab is closed.

const FIRST_DELAY_MS = 500;
const LONGEST_DELAY_MS = 10_000;

function takeKey() {
  const key = new URLSearchParams(location.hash.slice(1)).get('key');
  if (key) {
    sessionStorage.setItem('key', key);
    history.replaceState(null, '', location.pathname);
  }
  return sessionStorage.getItem('key');
}

/** Dispatches `event` for each message of the server, and `status` when that changes. */
export class Connection extends EventTarget {
  constructor() {
    super();
    this.status = 'connecting'; // 'connecting' | 'open' | 'waiting' | 'locked'
    this.generation = 0; // counts connections: what was sent on one is lost with it
    this.delay = FIRST_DELAY_MS;
    this.key = takeKey();
    window.addEventListener('online', () => this.retryNow());
  }

  /** Opens a new connection; the one before is closed. */
  connect() {
    clearTimeout(this.timer);
    this.close();
    const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
    const url = `${scheme}://${location.host}/v1/realtime`;
    // Browsers cannot set headers of a WebSocket; this is how OpenAI's API takes keys.
    const keyed = ['realtime', `openai-insecure-api-key.${this.key}`];
    const socket = new WebSocket(url, this.key ? keyed : []);
    this.socket = socket;
    this.generation += 1;
    this.set('connecting');
    socket.onmessage = ({ data }) => {
      if (socket === this.socket) this.receive(JSON.parse(data));
    };
    socket.onclose = () => {
      if (socket === this.socket) this.wait();
    };
  }

  receive(message) {
    this.dispatchEvent(new CustomEvent('event', { detail: message }));
    if (message.type !== 'session.created') return;
    this.delay = FIRST_DELAY_MS;
    this.set('open');
  }

  /** Sends an event if there is a connection; returns whether it did. */
  send(message) {
    if (this.status !== 'open') return false;
    this.socket.send(JSON.stringify(message));
    return true;
  }

  wait() {
    if (this.status === 'connecting') this.checkKey();
    this.set('waiting');
    // Not all pages at the same moment, when a server comes back.
    this.timer = setTimeout(() => this.connect(), this.delay * (0.75 + Math.random() / 2));
    this.delay = Math.min(this.delay * 2, LONGEST_DELAY_MS);
  }

  /** A refused WebSocket does not say why, so ask for something else. */
  async checkKey() {
    const headers = this.key ? { Authorization: `Bearer ${this.key}` } : {};
    const response = await fetch('/v1/models', { headers }).catch(() => null);
    if (response?.status !== 401 || this.status !== 'waiting') return;
    clearTimeout(this.timer);
    this.set('locked');
  }

  retryNow() {
    if (this.status === 'waiting') this.connect();
  }

  close() {
    const { socket } = this;
    this.socket = null;
    socket?.close();
  }

  set(status) {
    this.status = status;
    this.dispatchEvent(new CustomEvent('status', { detail: status }));
  }
}
