// The state of the page, in one place. Notifies the renderers when it changes.
// Must not use the network or the document.

export const state = {
  catalogue: [], // the models that the form offers; embedded in the page
  metrics: null,
  history: { hours: 1, rows: null },
  jobs: new Map(), // every job received so far, by id
  counts: null, // how many jobs there are by state: the one source of all counts
  // The list of jobs, as its address says (`base/list_address.js`), and what the server answered.
  list: {
    filters: { type: "", status: "", model_id: "", batch_id: "", search: "", from: "", to: "" },
    order: "queue",
    size: 25,
    after: [],
    ids: null,
    next: null,
    total: null,
    lookedAt: null,
    misfit: null, // why no job can match
  },
  batches: null, // the newest ones, and the one that the list shows
  latest: [], // ids of the newest videos
  videos: new Map(), // the newest videos by id, as the gallery lists them
  serving: [], // ids of the first jobs that have not ended, in the order in which they are served
  workers: null,
  models: null, // by id: files, downloads, usage
  health: null, // by id
  insight: null, // by id: scores and issues from the dashboard's list of models
  alerts: new Map(), // open ones, by id
  resolved: null,
  flower: null,
  firstRun: null, // whether a job submitted now would run, and what is missing
  usage: null, // device time of this month by key and model; for administrators
  pauses: null, // that are in force
  notes: {}, // by part: why it could not be loaded
  frozenAt: null, // when the server was heard last, while it is unreachable: what runs is shown as it was then
  isSettling: false, // whether messages tell what the counts may have already, until they are loaded again
  loaded: new Map(), // when the server answered for a part last; null: it needed no answer. Before that no view may call the part empty
};

/** Returns the time (ms) for which running jobs are shown. */
export const present = () => state.frozenAt ?? Date.now();

/** Returns whether the server has answered for any part. */
export const hasData = () => [...state.loaded.values()].some((at) => at !== null);

const MAX_JOBS = 1000;
const MOVES = ["status", "priority", "moved_to_front_at"]; // a change of these moves a job in the queue or out of it

const renderers = new Set();
const endListeners = new Set();
const moveListeners = new Set();
const afterRender = [];
let scheduled = false;

/** Calls `draw` after changes. Changes within 40 ms are drawn together. */
export function whenChanged(draw) {
  renderers.add(draw);
}

export function changed() {
  if (scheduled) return;
  scheduled = true;
  setTimeout(() => {
    scheduled = false;
    for (const draw of renderers) draw();
    for (const act of afterRender.splice(0)) act();
  }, 40);
}

/** Calls `act` once after the next drawing, for example to focus a new element. */
export function afterDrawing(act) {
  afterRender.push(act);
  changed();
}

const ENDS = new Set(["succeeded", "failed", "cancelled"]);
export const hasEnded = (job) => ENDS.has(job.status);

/** Calls `act` once with each job that ends, at the first answer or message that tells its end. */
export function whenEnded(act) {
  endListeners.add(act);
}

/** Calls `act` when a job is new, has begun, ended or moved, or is gone. */
export function whenMoved(act) {
  moveListeners.add(act);
}

/**
 * Adds or updates jobs, from an answer or a message. An older version of a job never replaces a newer one. `listed`: they
 * are a page of a list, so unknown jobs are seldom new ones, and the counts mostly include them already.
 */
export function mergeJobs(jobs, listed = false) {
  let moved = false;
  for (const job of jobs) {
    const known = state.jobs.get(job.id);
    if (job.deleted) {
      moved ||= Boolean(known);
      removeJob(job.id);
      continue;
    }
    if (known && isOlder(job, known)) continue;
    if (known && !listed) recount(known, job);
    moved ||= known ? MOVES.some((name) => known[name] !== job[name]) : !listed && !hasEnded(job);
    job.progressAt = known && isSame(job.progress, known.progress) ? known.progressAt : Date.now();
    state.jobs.delete(job.id); // keeps the map ordered by the last update
    state.jobs.set(job.id, job);
    const origin = state.jobs.get(job.retry_of);
    if (origin && !(origin.retried_as > job.id)) origin.retried_as = job.id;
    if (known && !hasEnded(known) && hasEnded(job)) for (const act of endListeners) act(job);
  }
  if (state.jobs.size > MAX_JOBS) removeOldest();
  if (listed && raiseCounts(jobs)) moved = true;
  if (moved) for (const act of moveListeners) act();
  changed();
}

/** Moves a job from count to count, so that the figures agree with the jobs until the server is asked again. */
export function recount(before, job) {
  if (state.isSettling) return;
  const from = before ? before.status : job.status === "running" ? "queued" : null; // an unknown one was queued, or is new
  if (!state.counts || from === job.status || (!before && hasEnded(job))) return;
  state.counts[job.status] += 1;
  if (from) state.counts[from] = Math.max(0, state.counts[from] - 1);
}

/**
 * Raises counts that a list exceeds: it may name a new job before the message about it arrives, which then tells nothing
 * new. Returns whether it did so.
 */
function raiseCounts(jobs) {
  let isRaised = false;
  for (const status of new Set(jobs.filter((job) => !job.deleted && !hasEnded(job)).map((job) => job.status))) {
    const known = [...state.jobs.values()].filter((job) => job.status === status).length;
    if (!state.counts || state.counts[status] >= known) continue;
    state.counts[status] = known;
    isRaised = true;
  }
  return isRaised;
}

/** Removes the oldest ended jobs that are not shown, so that a page open for weeks does not grow without bound. */
function removeOldest() {
  const shown = new Set([...(state.list.ids ?? []), ...state.latest]);
  for (const [id, job] of state.jobs) {
    if (state.jobs.size <= MAX_JOBS / 2) return;
    if (hasEnded(job) && !shown.has(id)) state.jobs.delete(id);
  }
}

const isSame = (one, other) => ["percent", "phase", "step", "eta_seconds"].every((name) => one[name] === other[name]);

function isOlder(job, known) {
  if (job.attempt !== known.attempt) return job.attempt < known.attempt;
  if (hasEnded(known)) return !hasEnded(job);
  return job.status === known.status && job.progress.percent < known.progress.percent;
}

export function removeJob(id) {
  state.removed?.(id);
  const origin = state.jobs.get(state.jobs.get(id)?.retry_of);
  if (origin?.retried_as === id) origin.retried_as = null;
  state.jobs.delete(id);
  state.list.ids = state.list.ids?.filter((one) => one !== id) ?? null;
  state.latest = state.latest.filter((one) => one !== id);
  changed();
}

/** Inserts a new job at the top of the list if the first page is shown, newest first, and the filters match. */
export function enterList(job) {
  const { filters, after, ids, order } = state.list;
  if (order !== "newest" || !ids || after.length || ids.includes(job.id) || (ids.length && job.id < ids[0])) return;
  if (Object.entries(filters).every(([name, wanted]) => !wanted || job[name] === wanted)) ids.unshift(job.id);
}

/** How many jobs have not ended; null: not known yet. */
export const activeCount = () => (state.counts ? state.counts.queued + state.counts.running + state.counts.paused : null);

/** Returns whether the node is drained: it takes no new work. */
export const isDrained = (node) => Boolean(state.workers?.nodes.find((one) => one.name === node)?.drained_at);

const ACCEPT_NONE = new Set(["offline", "draining", "drained", "paused", "quarantined"]);

/** Whether the device takes a job now, or after the one that runs on it. */
export const acceptsJobs = (device) => !ACCEPT_NONE.has(device.state) && !device.paused_at && !isDrained(device.node);

/** Says why no device accepts jobs, as "all 2 devices are paused"; null: one does, or that is not known. */
export function noDevice() {
  const devices = state.workers?.devices ?? [];
  if (!state.workers || devices.some(acceptsJobs)) return null;
  if (!devices.length) return "none is registered";
  const states = devices.map((device) => (isDrained(device.node) ? "drained" : device.paused_at ? "paused" : device.state));
  const counts = [...new Set(states)].map((one) => [one, states.filter((other) => other === one).length]);
  if (counts.length > 1) return counts.map(([one, count]) => `${count} ${count === 1 ? "is" : "are"} ${one}`).join(", ");
  return devices.length === 1 ? `the only one is ${states[0]}` : `all ${devices.length} are ${states[0]}`;
}

/** The word for a kind of device. */
export const KINDS = { cuda: "GPU", cpu: "CPU" };

/** Returns a device's name as every view spells it: "studio / CPU 0". */
export const deviceName = ({ node, kind, index }) => `${node} / ${KINDS[kind] ?? kind}\u00a0${index}`;

/** Returns the name of the device with this key ("studio/0"), or of the one with this id on a node. */
export function deviceNamed(key, id = null) {
  const found = state.workers?.devices.find((one) => (id ? one.node === key && one.uuid === id : `${one.node}/${one.index}` === key));
  if (found) return deviceName(found);
  const [, kind, index] = /^(cpu|cuda)-(\d+)$/.exec(id ?? "") ?? []; // the device may be gone
  return kind ? deviceName({ node: key, kind, index }) : id ? `${key} / ${id}` : key;
}

export function mergeAlert(alert) {
  if (alert.resolved_at) state.alerts.delete(alert.id);
  else state.alerts.set(alert.id, alert);
  changed();
}

/** Returns the known queued, running and paused jobs: running ones first, then as they are served. */
export function activeJobs() {
  const rank = { running: 0, paused: 2 };
  const places = new Map(state.serving.map((id, place) => [id, place]));
  const place = (job) => places.get(job.id) ?? Infinity;
  return [...state.jobs.values()]
    .filter((job) => !hasEnded(job))
    .sort(
      (a, b) =>
        (rank[a.status] ?? 1) - (rank[b.status] ?? 1) ||
        (place(a) === place(b) ? 0 : place(a) - place(b)) ||
        (a.queue_position ?? Infinity) - (b.queue_position ?? Infinity) ||
        (a.id < b.id ? -1 : 1),
    );
}
