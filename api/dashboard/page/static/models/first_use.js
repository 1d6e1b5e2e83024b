// What a job of a model that no node has would do: start its download by itself, wait for one, or wait without end.

import { gigabytes, percent } from "../base/format.js";
import { hasEnded, state } from "../base/state.js";

const BY_REQUEST = new Set(["setting", "ended"]); // reasons that do not hold for a job that asks for the download itself

/**
 * Returns what is known about the first use of a model; null: it is there, or nothing is known yet.
 * `asked`: of a job that asks for the download, by its fallback.
 */
export function firstUse(modelId, asked = false) {
  const found = state.firstRun?.first_downloads.find((one) => one.model_id === modelId);
  if (!found) return null;
  return asked && BY_REQUEST.has(found.reason) ? { ...found, state: "starts", reason: null } : found;
}

/** Returns the models whose first job downloads them, the best fit first. */
export function downloadedByJobs() {
  const found = (state.firstRun?.first_downloads ?? []).filter((one) => one.state === "starts");
  return found.sort((a, b) => (b.model_id === state.firstRun.best) - (a.model_id === state.firstRun.best));
}

/** Returns the running download of a model that no node has; null without one. */
export function downloadOf(modelId) {
  const job = state.jobs.get(firstUse(modelId)?.job_id);
  return job && !hasEnded(job) ? job : null;
}

/** Describes a model that no node has, in two or three words. */
export function firstUseInWords(modelId) {
  const first = firstUse(modelId);
  if (!first) return "not downloaded";
  if (first.state === "going") {
    const job = downloadOf(modelId);
    return job?.status === "running" ? `downloading, ${percent(job.progress.percent)}` : "download is queued";
  }
  return { starts: "downloads on first use", paused: "download is paused", damaged: "files damaged" }[first.reason ?? "starts"] ?? "not downloaded";
}

/** Says what a job that is submitted now does about its model's files. */
export function firstUseSentence(first) {
  const size = gigabytes(first.download_gb);
  if (first.state === "starts") return `The model (about ${size}) is downloaded first, automatically.`;
  if (first.state === "going") return "The model is being downloaded; the job starts once it is there.";
  return `The model (about ${size}) is not there, so the job would wait. ${first.why_not}`;
}
