// All that the page knows, in one place, and the word to whoever draws it that something has changed.
// Knows neither the network nor the document's content.

export const state = {
  catalogue: [], // what the form may offer, from the page itself
  metrics: null,
  history: { hours: 1, rows: null },
  jobs: new Map(), // every job heard of, by id
  list: { filters: { type: "", status: "", model_id: "" }, after: [], ids: null, next: null },
  latest: [], // ids of the newest videos
  workers: null,
  models: null, // by id: files, downloads, use
  health: null, // by id
  insight: null, // by id: scores and issues, as the dashboard has them
  alerts: new Map(), // open ones, by id
  resolved: null,
  flower: null,
  notes: {}, // by part: why it could not be read
};

const KEPT = 1000; // jobs

const drawers = new Set();
const afterwards = [];
let due = false;

/** Calls `draw` after every change, at most once in a while for many changes together. */
export function whenChanged(draw) {
  drawers.add(draw);
}

export function changed() {
  if (due) return;
  due = true;
  setTimeout(() => {
    due = false;
    for (const draw of drawers) draw();
    for (const act of afterwards.splice(0)) act();
  }, 40);
}

/** Draws, and then does this once: focus goes to what only now is on the page. */
export function afterDrawing(act) {
  afterwards.push(act);
  changed();
}

const ENDS = new Set(["succeeded", "failed", "cancelled"]);
export const hasEnded = (job) => ENDS.has(job.status);

/** Takes in what was heard of jobs; an older word never replaces a newer one. */
export function learnJobs(jobs) {
  for (const job of jobs) {
    if (job.deleted) {
      forgetJob(job.id);
      continue;
    }
    const known = state.jobs.get(job.id);
    if (known && isOlder(job, known)) continue;
    state.jobs.delete(job.id); // the newest word stands last
    state.jobs.set(job.id, job);
  }
  if (state.jobs.size > KEPT) forgetOldest();
  changed();
}

/** A page that is open for weeks hears of many jobs: of those that ended and stand nowhere, the oldest go. */
function forgetOldest() {
  const shown = new Set([...(state.list.ids ?? []), ...state.latest]);
  for (const [id, job] of state.jobs) {
    if (state.jobs.size <= KEPT / 2) return;
    if (hasEnded(job) && !shown.has(id)) state.jobs.delete(id);
  }
}

function isOlder(job, known) {
  if (job.attempt !== known.attempt) return job.attempt < known.attempt;
  if (hasEnded(known)) return !hasEnded(job);
  return job.status === known.status && job.progress.percent < known.progress.percent;
}

export function forgetJob(id) {
  state.jobs.delete(id);
  state.list.ids = state.list.ids?.filter((one) => one !== id) ?? null;
  state.latest = state.latest.filter((one) => one !== id);
  changed();
}

/** A job that was heard of enters the list where its first page is shown and the filters let it. */
export function enterList(job) {
  const { filters, after, ids } = state.list;
  if (!ids || after.length || ids.includes(job.id) || (ids.length && job.id < ids[0])) return;
  if (Object.entries(filters).every(([name, wanted]) => !wanted || job[name] === wanted)) ids.unshift(job.id);
}

/** Whether the node is to take nothing new. */
export const isDrained = (node) => Boolean(state.workers?.nodes.find((one) => one.name === node)?.drained_at);

export function learnAlert(alert) {
  if (alert.resolved_at) state.alerts.delete(alert.id);
  else state.alerts.set(alert.id, alert);
  changed();
}

/** Jobs that wait or run, the running ones first, then in the order in which they will start. */
export function activeJobs() {
  const rank = { running: 0, paused: 2 };
  return [...state.jobs.values()]
    .filter((job) => !hasEnded(job))
    .sort(
      (a, b) =>
        (rank[a.status] ?? 1) - (rank[b.status] ?? 1) ||
        (a.queue_position ?? 0) - (b.queue_position ?? 0) ||
        (a.id < b.id ? -1 : 1),
    );
}
