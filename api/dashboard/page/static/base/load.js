// Loads parts of the state from the server. If one part fails, its error is noted and the others still load.

import { Unreachable, answers, get } from "./api.js";
import { asked, misfit, orderOf, refusal } from "./list_address.js";
import { changed, hasEnded, mergeJobs, state } from "./state.js";

const ACTIVE = 100;
const LATEST = 6;
const HUB_MS = 4_000;

let hubTimer = null;

/** Loads one part and notes why it could not be loaded. Throws Unreachable. */
export async function part(name, read) {
  const before = answers.count;
  try {
    await read();
    state.loaded.set(name, answers.count > before ? Date.now() : (state.loaded.get(name) ?? null));
    delete state.notes[name];
  } catch (error) {
    state.notes[name] = error.message;
    changed();
    if (error instanceof Unreachable) throw error;
  }
  changed();
}

const metrics = () =>
  part("metrics", async () => {
    state.metrics = await get("/api/v1/dashboard/metrics");
  });

export const history = () =>
  part("history", async () => {
    const hours = state.history.hours;
    const rows = await get("/api/v1/dashboard/metrics/history", { hours });
    if (state.history.hours === hours) state.history = { hours, rows };
  });

const workers = () =>
  part("workers", async () => {
    state.workers = await get("/api/v1/workers");
  });

export const models = () =>
  part("models", async () => {
    state.models = (await get("/api/v1/models/status/detailed")).models;
  });

const health = () =>
  part("health", async () => {
    state.health = (await get("/api/v1/models/health")).model_health;
  });

const insight = () =>
  part("insight", async () => {
    const rows = await get("/api/v1/dashboard/models");
    state.insight = Object.fromEntries(rows.map((row) => [row.model_id, row]));
  });

/** Loads the speed tiers of each model, with their measurements. */
const tiers = () =>
  part("tiers", async () => {
    const ids = Object.keys(state.models ?? {});
    const rows = await Promise.all(ids.map((id) => get(`/api/v1/wan-models/tiers/${encodeURIComponent(id)}`)));
    state.tiers = Object.fromEntries(rows.map((row) => [row.model_id, row]));
  });

const alerts = () =>
  part("alerts", async () => {
    const rows = await get("/api/v1/dashboard/alerts");
    state.alerts = new Map(rows.map((row) => [row.id, row]));
  });

const resolved = () =>
  part("resolved", async () => {
    state.resolved = await get("/api/v1/dashboard/alerts", { state: "resolved" });
  });

export const flower = () =>
  part("flower", async () => {
    state.flower = await get("/api/v1/dashboard/flower");
  });

/**
 * Loads the first jobs that have not ended, in the order in which they are served. Known ones that are missing in the
 * response have moved on, and are fetched one by one.
 */
export const active = () =>
  part("active", async () => {
    const before = [...state.jobs.values()].filter((job) => !hasEnded(job)).map((job) => job.id);
    const pages = ["running", "queued", "paused"].map((status) =>
      get("/api/v1/jobs", { status, order: "queue", limit: status === "queued" ? 20 : ACTIVE }),
    );
    const found = (await Promise.all(pages)).flatMap((page) => page.data);
    state.serving = found.map((job) => job.id);
    const ids = new Set(state.serving);
    const shown = new Set([...(state.list.ids ?? []), ...state.latest]);
    const gone = before.filter((id) => !ids.has(id) && !shown.has(id)).slice(0, ACTIVE);
    mergeJobs([...found, ...(await Promise.all(gone.map(one)))], true);
  });

/** Fetches one job. Resolves to `{id, deleted: true}` if it does not exist. */
export async function one(id) {
  try {
    return await get(`/api/v1/jobs/${encodeURIComponent(id)}`);
  } catch (error) {
    if (error.status === 404) return { id, deleted: true };
    throw error;
  }
}

/** Loads the newest batches, and the one whose jobs are listed. */
const batches = (id, listed) =>
  part("batches", async () => {
    const newest = (await get("/api/v1/batches", { limit: 5 })).data;
    // A batch goes with its last job, so it is asked for only while the list shows one.
    const isThere = listed > 0 || newest.some((batch) => batch.id === id);
    const shown = id && isThere ? await get(`/api/v1/batches/${encodeURIComponent(id)}`) : null;
    state.batches = { newest, shown };
  });

/** Loads the current page of the list of jobs. */
export const jobs = () =>
  part("jobs", async () => {
    const { filters, after, size } = state.list;
    const none = (why) => Object.assign(state.list, { ids: [], next: null, total: null, misfit: why });
    if (misfit(filters)) return none(misfit(filters));
    const isOlder = () => state.list.filters !== filters || state.list.after !== after || state.list.size !== size;
    const where = asked(filters);
    const query = { ...where, order: orderOf(state.list), limit: size, after: after.at(-1) };
    let page;
    try {
      page = await get("/api/v1/jobs", query);
    } catch (error) {
      if (error.status !== 422) throw error;
      return isOlder() ? null : none(refusal(error, state.list)); // asking again would change nothing
    }
    if (isOlder()) return null; // the list has changed meanwhile
    mergeJobs(page.data, true);
    Object.assign(state.list, { ids: page.data.map((job) => job.id), next: page.next, lookedAt: page.looked_at, misfit: null });
    changed();
    await batches(filters.batch_id, page.data.length);
    if (filters.search || isOlder()) return null;
    const total = await get("/api/v1/jobs/count", where);
    if (!isOlder()) state.list.total = total;
    return null;
  });

/** Loads how many jobs there are by state. */
export const counts = () =>
  part("counts", async () => {
    state.counts = (await get("/api/v1/jobs/count")).by_status;
  });

/** Loads the newest videos by their end, as the gallery has them: jobs are listed by their creation. */
export const latest = () =>
  part("latest", async () => {
    const videos = (await get("/api/v1/gallery", { limit: LATEST })).data;
    state.videos = new Map(videos.map((video) => [video.id, video]));
    state.latest = videos.map((video) => video.id);
  });

const usage = () =>
  part("usage", async () => {
    if (document.body.dataset.scopes.includes("admin")) state.usage = await get("/api/v1/usage", { by: "key,model" });
  });

/** Loads whether a job submitted now would run, and what fits. */
export const firstRun = () =>
  part("firstRun", async () => {
    state.firstRun = await get("/api/v1/dashboard/first-run");
    clearTimeout(hubTimer);
    // A hub that starts together with the server answers some seconds later.
    if (state.firstRun.first_downloads.some((one) => one.reason === "hub")) hubTimer = setTimeout(askHubAgain, HUB_MS);
  });

function askHubAgain() {
  if (!document.hidden) firstRun().catch(() => {}); // the feed reports an unreachable server
}

const pauses = () =>
  part("pauses", async () => {
    state.pauses = (await get("/api/v1/queues")).pauses;
  });

/** Loads the flows that are shown, once their script is there. */
const flows = () => state.flows && part("flows", state.flows.load);

/** Loads the gallery, once its script is there. */
const gallery = () => state.gallery && part("gallery-view", state.gallery.load);

/** Loads the jobs that were submitted in this browser. */
const submitted = () => part("submitted", () => state.readSubmitted());

/** Loads the LoRAs that the caller may use: the library shows them, the form names them. */
export async function readLoras() {
  state.loras = (await get("/api/v1/loras")).data;
  changed();
}

const loras = () => part("loras", readLoras);

const PARTS = {
  gallery: [gallery],
  overview: [active, firstRun, history, latest, models, usage, pauses],
  jobs: [jobs, pauses],
  flows: [flows],
  new: [active, models, loras, firstRun, pauses, submitted],
  models: [() => models().then(tiers), health, insight, loras, firstRun],
  devices: [models, pauses],
  alerts: [resolved],
};

/** Loads what every view needs. Throws Unreachable. */
export async function essentials() {
  await Promise.all([metrics(), workers(), alerts(), active(), counts()]);
}

/** Loads what one view needs. Throws Unreachable. */
export async function view(name) {
  await Promise.all((PARTS[name] ?? []).map((read) => read()));
}
