// Keeps the state up to date by WebSocket, or by polling every five seconds, and knows how old the data is.
// Everything is loaded again every thirty seconds, because a message may be lost.

import { Unreachable, answers, base, get } from "./api.js";
import * as load from "./load.js";
import { mergePreview } from "../job/preview.js";
import { retryPictures } from "./parts.js";
import { activeCount, changed, enterList, mergeAlert, mergeJobs, recount, state, whenEnded, whenMoved } from "./state.js";

const POLL_MS = 5_000;
const REFRESH_MS = 30_000;
const STALE_MS = 15_000; // the server sends a message at least every ten seconds
const OPENING_MS = 10_000;
const LONGEST_WAIT_MS = 30_000;
const MOVED_MS = 1_000;
const EXPECTED_MS = 5_000;
const BEGUN_MS = 3_000;
const DRAIN = new Set(["draining", "drained"]);

/**
 * `link`: connecting, live, polling or lost. `answeredAt`: time of the last answer or message (ms), initially null.
 * `isFailing`: messages arrive, but the last requests were not answered.
 */
export const feed = { link: "connecting", answeredAt: null, lostAt: null, isFailing: false };

let socket = null;
let receivedAt = 0; // time of the socket's last message
let failures = 0;
let retrying = null; // the timer of the next attempt to connect
let view = "overview";
let notify = () => {};
let refreshedAt = 0;
let polling = false;

/** Starts the feed. Calls `listener` with "lost" or "regained" when the connection changes. */
export function start(firstView, listener) {
  view = firstView;
  notify = listener;
  whenEnded(ended);
  whenMoved(movedSoon);
  connect();
  refresh();
  setInterval(tick, 1_000);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && Date.now() - refreshedAt > POLL_MS) refresh();
  });
}

/** Loads the data of the view that is now shown. */
export function showView(name) {
  view = name;
  guarded(() => load.view(name));
}

/** Loads everything again, and connects if the socket is closed. */
export async function refresh() {
  connect();
  refreshedAt = Date.now();
  answers.isMissing = false;
  await guarded(() => Promise.all([load.essentials(), load.view(view), load.flower()]));
}

export const isStale = (now = Date.now()) => feed.answeredAt !== null && now - feed.answeredAt > STALE_MS;

/** Whether the server answers requests with data: its health may be good while they fail. */
const probe = () => get("/healthz").then(load.essentials);

/** Reads, and notes whether requests are answered. A read that needed no request says nothing about that. */
async function guarded(read) {
  const before = answers.count;
  try {
    await read();
    if (answers.count === before) return changed();
    if (feed.isFailing) retryPictures();
    feed.isFailing = false;
    answered();
  } catch (error) {
    if (!(error instanceof Unreachable)) throw error;
    unreachable();
  }
}

/** Notes a message. A server that was lost is regained once it answers requests, too. */
function heard() {
  if (feed.link === "lost") feed.isFailing = true;
  feed.link = "live";
  feed.answeredAt = Date.now();
  state.frozenAt = null;
  changed();
}

function answered() {
  const regained = feed.lostAt !== null;
  const isNews = feed.answeredAt !== null || Date.now() - feed.lostAt > BEGUN_MS; // else the page has only just begun
  feed.answeredAt = Date.now();
  state.frozenAt = null;
  if (feed.link !== "live") feed.link = socket?.readyState === WebSocket.OPEN ? "live" : "polling";
  if (regained) {
    feed.lostAt = null;
    failures = 0;
    retryPictures();
    if (isNews) notify("regained");
    refresh();
    connect();
  }
  changed();
}

function unreachable() {
  feed.isFailing = socket?.readyState === WebSocket.OPEN && !isStale(); // the socket still works
  if (!feed.isFailing && feed.link !== "lost") {
    feed.link = "lost";
    feed.lostAt = Date.now();
    state.frozenAt = feed.answeredAt;
    notify("lost");
  }
  changed();
}

async function tick() {
  const now = Date.now();
  dropDead(now);
  if (document.hidden) return;
  changed(); // shown ages increase
  if (polling) return;
  const since = now - refreshedAt;
  polling = true;
  try {
    if (feed.link === "lost") await guarded(probe);
    // What was not answered is loaded again, also where another request was answered meanwhile.
    else if (since > REFRESH_MS || (answers.isMissing && !feed.isFailing && since > POLL_MS)) await refresh();
    else if (feed.link === "live" && activeCount() && now - expectedAt > EXPECTED_MS) await guarded(readExpected);
    else if ((feed.link !== "live" || feed.isFailing || isStale(now)) && now - (feed.polledAt ?? 0) > POLL_MS) {
      feed.polledAt = now;
      await guarded(() => Promise.all([load.essentials(), load.view(view)]));
    }
  } finally {
    polling = false;
  }
}

function connect() {
  if (socket && socket.readyState <= WebSocket.OPEN) return;
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  receivedAt = Date.now();
  let mine;
  try {
    mine = new WebSocket(`${scheme}//${location.host}${base}/api/v1/dashboard/ws`);
  } catch {
    reconnect(); // the browser, or something that it runs, forbids it at the moment
    return;
  }
  socket = mine;
  mine.addEventListener("open", () => {
    state.isSettling = true; // the first messages tell of all jobs
    movedSoon();
  });
  mine.addEventListener("message", ({ data }) => {
    if (mine !== socket) return;
    failures = 0;
    receivedAt = Date.now();
    receive(JSON.parse(data));
    heard();
  });
  mine.addEventListener("close", () => {
    if (mine === socket) reconnect();
  });
}

function reconnect() {
  socket = null;
  failures += 1;
  if (feed.link === "live") {
    feed.link = "connecting";
    guarded(probe); // finds out whether only the socket or the whole server is gone
  }
  const wait = Math.min(LONGEST_WAIT_MS, 500 * 2 ** failures) * (0.5 + Math.random() / 2);
  clearTimeout(retrying); // one attempt is enough
  retrying = setTimeout(() => {
    // While the server is unreachable, `tick` polls it and connects again.
    if (feed.link !== "lost") connect();
  }, wait);
  changed();
}

/** Reconnects a silent socket: after sleep, or behind a proxy, a dead connection is not always closed, or refused. */
function dropDead(now) {
  if (!socket || socket.readyState > WebSocket.OPEN) return;
  if (now - receivedAt < (socket.readyState === WebSocket.OPEN ? 2 * STALE_MS : OPENING_MS)) return;
  socket.close();
  reconnect();
}

let moving = null;

/** Loads again, once for many messages, what changes when jobs begin, end or move: the counts, and who is next. */
function movedSoon() {
  moving ??= setTimeout(() => {
    moving = null;
    state.isSettling = false; // what is told from here on comes after what is counted now
    if (document.hidden) return;
    const parts = [load.counts()];
    if (view === "overview" || view === "new") parts.push(load.active());
    if (view === "jobs") parts.push(load.jobs());
    if (view === "new") parts.push(load.models()); // which are loaded now
    guarded(() => Promise.all(parts));
  }, MOVED_MS);
}

let expectedAt = 0; // when the expected starts of the queued jobs were read last

/** Reads when queued jobs are expected to start, which no message tells: it follows how fast others run. */
function readExpected() {
  expectedAt = Date.now();
  const isShown = [...state.jobs.values()].some((job) => job.status === "queued");
  if (!isShown) return undefined;
  return view === "jobs" ? load.jobs() : view === "overview" || view === "new" ? load.active() : undefined;
}

const MESSAGE_HANDLERS = {
  metrics_update(data) {
    state.metrics = data;
    delete state.notes.metrics;
  },
  job_update(job) {
    if (!job.deleted && !state.jobs.has(job.id)) recount(null, job);
    mergeJobs([job]);
    if (job.deleted) movedSoon();
    else enterList(job);
  },
  worker_update(device) {
    if (!state.workers) return;
    const same = (one) => one.node === device.node && one.index === device.index && one.kind === device.kind;
    const at = state.workers.devices.findIndex(same);
    const before = state.workers.devices[at]?.state;
    if (at < 0) state.workers.devices.push(device);
    else state.workers.devices[at] = device;
    const drain = DRAIN.has(before) || DRAIN.has(device.state);
    if (before !== device.state && drain) guarded(load.essentials); // the state of its node has changed too
  },
  pause_update(pause) {
    if (!state.pauses) return;
    const others = state.pauses.filter((one) => one.id !== pause.id);
    state.pauses = pause.ended ? others : [...others, pause].sort((a, b) => (a.id < b.id ? -1 : 1));
    guarded(load.active); // the jobs say what they wait for
  },
  alert: mergeAlert,
  preview_update: mergePreview,
};

function receive(message) {
  MESSAGE_HANDLERS[message.type]?.(message.data);
  changed();
}

/** Loads again what the end of a job changes elsewhere. */
function ended(job) {
  if (job.type !== "generation") guarded(() => load.view(view));
  else if (job.status === "succeeded" && view === "overview") guarded(load.latest);
}
