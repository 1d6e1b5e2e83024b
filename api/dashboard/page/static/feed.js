// Keeps the state live: by WebSocket, else by asking every five seconds; says at any time how fresh the page is.
// Whatever happens, everything is read anew every thirty seconds.

import { Away, base, get } from "./api.js";
import * as load from "./load.js";
import { changed, enterList, hasEnded, learnAlert, learnJobs, state } from "./state.js";

const POLL_MS = 5_000;
const REFRESH_MS = 30_000;
const STALE_MS = 15_000; // the server says something at least every ten seconds
const LONGEST_WAIT_MS = 30_000;
const DRAIN = new Set(["draining", "drained"]);

/** `link`: connecting, live, polling or lost. `heard`: when the server last said something (ms), null before. */
export const feed = { link: "connecting", heard: null, lostAt: null };

let socket = null;
let spokeAt = 0; // when the socket last said something
let failures = 0;
let view = "overview";
let told = () => {};
let refreshedAt = 0;
let polling = false;

/** Begins. `tell` hears "lost" and "regained". */
export function start(firstView, tell) {
  view = firstView;
  told = tell;
  connect();
  refresh();
  setInterval(tick, 1_000);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && Date.now() - refreshedAt > POLL_MS) refresh();
  });
}

/** Another view is looked at now: what it shows is read at once. */
export function look(name) {
  view = name;
  guarded(() => load.view(name));
}

/** Reads everything anew. */
export async function refresh() {
  refreshedAt = Date.now();
  await guarded(() => Promise.all([load.essentials(), load.view(view), load.flower()]));
}

export const isStale = (now = Date.now()) => feed.heard !== null && now - feed.heard > STALE_MS;

async function guarded(read) {
  try {
    await read();
    heard();
  } catch (error) {
    if (!(error instanceof Away)) throw error;
    lost();
  }
}

function heard() {
  const regained = feed.link === "lost";
  feed.heard = Date.now();
  if (feed.link !== "live") feed.link = socket?.readyState === WebSocket.OPEN ? "live" : "polling";
  if (regained) {
    feed.lostAt = null;
    failures = 0;
    told("regained");
    refresh();
    connect();
  }
  changed();
}

function lost() {
  if (socket?.readyState === WebSocket.OPEN && !isStale()) return; // one answer failed, but the server still speaks
  if (feed.link !== "lost") {
    feed.link = "lost";
    feed.lostAt = Date.now();
    told("lost");
  }
  changed();
}

async function tick() {
  const now = Date.now();
  dropDead(now);
  if (document.hidden) return;
  changed(); // ages move
  if (polling) return;
  const since = now - refreshedAt;
  polling = true;
  try {
    if (feed.link === "lost") await guarded(() => get("/healthz"));
    else if (since > REFRESH_MS) await refresh();
    else if ((feed.link !== "live" || isStale(now)) && now - (feed.polledAt ?? 0) > POLL_MS) {
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
  const mine = new WebSocket(`${scheme}//${location.host}${base}/api/v1/dashboard/ws`);
  socket = mine;
  spokeAt = Date.now();
  mine.addEventListener("message", ({ data }) => {
    if (mine !== socket) return;
    failures = 0;
    spokeAt = Date.now();
    take(JSON.parse(data));
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
    guarded(() => get("/healthz")); // is it the socket alone, or the server?
  }
  const wait = Math.min(LONGEST_WAIT_MS, 500 * 2 ** failures) * (0.5 + Math.random() / 2);
  setTimeout(() => {
    // While the server is lost, plain questions find out when it is back.
    if (feed.link !== "lost") connect();
  }, wait);
  changed();
}

/** A connection can be dead without anybody having said so: after a sleep, behind a proxy. */
function dropDead(now) {
  if (socket?.readyState !== WebSocket.OPEN || now - spokeAt < 2 * STALE_MS) return;
  socket.close();
  reconnect();
}

const TAKERS = {
  metrics_update(data) {
    state.metrics = data;
    delete state.notes.metrics;
  },
  job_update(job) {
    const before = state.jobs.get(job.id);
    learnJobs([job]);
    if (job.deleted) return;
    enterList(job);
    if (hasEnded(job) && before && !hasEnded(before)) ended(job);
  },
  worker_update(device) {
    if (!state.workers) return;
    const same = (one) => one.node === device.node && one.index === device.index && one.kind === device.kind;
    const at = state.workers.devices.findIndex(same);
    const before = state.workers.devices[at]?.state;
    if (at < 0) state.workers.devices.push(device);
    else state.workers.devices[at] = device;
    if (before !== device.state && (DRAIN.has(before) || DRAIN.has(device.state))) guarded(load.essentials); // its node's
  },
  alert: learnAlert,
};

function take(message) {
  TAKERS[message.type]?.(message.data);
  changed();
}

/** What a job's end changes elsewhere is read again. */
function ended(job) {
  if (job.type !== "generation") guarded(() => load.view(view));
  else if (job.status === "succeeded" && view === "overview") guarded(load.latest);
}
