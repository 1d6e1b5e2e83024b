// Reads of the server, each into its part of the state. A part that cannot be read says why; the others go on.

import { Away, get } from "./api.js";
import { changed, hasEnded, learnJobs, state } from "./state.js";

const PAGE = 25;
const ACTIVE = 100;
const LATEST = 6;

/** Reads one part; a problem of the server is noted there. Throws Away. */
async function part(name, read) {
  try {
    await read();
    delete state.notes[name];
  } catch (error) {
    if (error instanceof Away) throw error;
    state.notes[name] = error.message;
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

/** Jobs that wait or run. One that was thought to and is not among them is asked for by itself. */
export const active = () =>
  part("active", async () => {
    const before = [...state.jobs.values()].filter((job) => !hasEnded(job)).map((job) => job.id);
    const found = [];
    for (const status of ["running", "queued", "paused"]) {
      found.push(...(await get("/api/v1/jobs", { status, limit: ACTIVE })).data);
    }
    const ids = new Set(found.map((job) => job.id));
    const gone = before.filter((id) => !ids.has(id)).slice(0, ACTIVE);
    learnJobs([...found, ...(await Promise.all(gone.map(one)))]);
  });

/** One job, or word that it is no more. */
export async function one(id) {
  try {
    return await get(`/api/v1/jobs/${encodeURIComponent(id)}`);
  } catch (error) {
    if (error.status === 404) return { id, deleted: true };
    throw error;
  }
}

/** The page of jobs that the filters and the place in the list ask for. */
export const jobs = () =>
  part("jobs", async () => {
    const { filters, after } = state.list;
    const page = await get("/api/v1/jobs", { ...filters, limit: PAGE, after: after.at(-1) });
    if (state.list.filters !== filters || state.list.after !== after) return; // asked for something else meanwhile
    learnJobs(page.data);
    state.list = { filters, after, ids: page.data.map((job) => job.id), next: page.next };
  });

export const latest = () =>
  part("latest", async () => {
    const page = await get("/api/v1/jobs", { type: "generation", status: "succeeded", limit: LATEST });
    learnJobs(page.data);
    state.latest = page.data.map((job) => job.id);
  });

const PARTS = {
  overview: [history, latest, models],
  jobs: [jobs],
  new: [models],
  models: [models, health, insight],
  devices: [models],
  alerts: [resolved],
};

/** What changes by itself and every view shows a part of. Throws Away. */
export async function essentials() {
  await Promise.all([metrics(), workers(), alerts(), active()]);
}

/** Everything that this view shows. Throws Away. */
export async function view(name) {
  await Promise.all((PARTS[name] ?? []).map((read) => read()));
}
