// What is done to one job: cancel (with some seconds to undo it), retry, reuse, delete.

import { base, newKey, post, remove } from "../base/api.js";
import { attempt, confirm, showMessage } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { button, progressOf, titleOf } from "../base/parts.js";
import { plural } from "../base/format.js";
import * as load from "../base/load.js";
import { changed, enterList, hasEnded, mergeJobs, removeJob, state, whenEnded, whenMoved } from "../base/state.js";

const UNDO_MS = 5_000;
const TWICE_MS = 400; // a second click or a held key is no change of mind

const ALL = "all"; // in place of the id of one job

const waiting = new Map(); // jobs whose cancel is not sent yet, by id: {title, timer}
let turned = { id: null, at: 0 }; // the job whose cancel was asked for or taken back last
const cancelled = new Set(); // ids of the jobs that were cancelled in this page
let closeMessage = () => {}; // ends the message of those that wait
let isDismissed = false; // whether the user has closed it

export const isCancelling = (job) => waiting.has(job.id);

/** Notes that the user cancels this job: its end is no news then. */
export const noteCancel = (id) => cancelled.add(id);

export const wasCancelledHere = (job) => job.status === "cancelled" && cancelled.has(job.id);

/** Cancels a job after five seconds, in which a message offers to undo it. Leaving the page sends it at once. */
export function cancel(job) {
  if (waiting.has(job.id)) return;
  waiting.set(job.id, { title: titleOf(job).slice(0, 60), timer: setTimeout(() => send(job), UNDO_MS) });
  isDismissed = false;
  changed();
  offerUndo();
}

/** Shows one message for all cancels that are not sent yet, with the way back. */
function offerUndo() {
  if (!waiting.size || isDismissed) return closeMessage();
  const [{ title }] = waiting.values();
  closeMessage = showMessage(waiting.size === 1 ? `Cancelling: ${title}` : `Cancelling ${plural(waiting.size, "job")}`, "info", {
    key: "cancelling",
    milliseconds: Infinity, // until the last one is sent
    actions: [{ text: "Undo", act: undoAll }],
    dismissed: () => {
      isDismissed = true;
    },
  });
  return null;
}

function undoAll() {
  showMessage(waiting.size === 1 ? "The cancel is undone." : "The cancels are undone.", "good", { key: "cancelling" });
  for (const { timer } of waiting.values()) clearTimeout(timer);
  waiting.clear();
  turned.at = 0; // another click on the button of a row is meant
  changed();
}

/** Cancels the job, or takes that back if it is not sent yet. */
function turn(job) {
  if (turned.id === job.id && Date.now() - turned.at < TWICE_MS) return;
  turned = { id: job.id, at: Date.now() };
  if (isCancelling(job)) undo(job.id);
  else cancel(job);
}

/** Takes back the cancel of one job. */
function undo(id) {
  clearTimeout(waiting.get(id).timer);
  waiting.delete(id);
  changed();
  offerUndo();
}

async function send(job) {
  waiting.delete(job.id);
  offerUndo();
  await attempt(async () => {
    const answer = await sendCancel(job.id);
    if (!answer) return tooLate(job);
    return hasEnded(answer) ? "Cancelled" : "Cancellation requested";
  }, null, { not: `Not cancelled: ${titleOf(job).slice(0, 60)}`, again: () => send(state.jobs.get(job.id) ?? job) });
  changed();
}

/** Cancels a job at once. Resolves to the job, or to null: it had ended before. */
export async function sendCancel(id) {
  noteCancel(id);
  try {
    const answer = await post(`/api/v1/jobs/${id}/cancel`);
    mergeJobs([answer]);
    return answer;
  } catch (error) {
    if (error.status !== 409) throw error;
    mergeJobs([await load.one(id)]);
    return null;
  }
}

/** Says that a job ended by itself while its cancel could be undone: nobody's error. */
function tooLate(job) {
  const outcome = (state.jobs.get(job.id) ?? job).status === "failed" ? "failed" : "finished";
  showMessage(`It ${outcome} before it could be cancelled: ${titleOf(job).slice(0, 60)}`, "info", { stays: true });
}

whenEnded((job) => {
  if (!waiting.has(job.id)) return;
  clearTimeout(waiting.get(job.id).timer);
  waiting.delete(job.id);
  offerUndo();
  if (job.status !== "cancelled") tooLate(job); // else somebody else was quicker
});

addEventListener("pagehide", () => {
  for (const [id, { timer }] of waiting) {
    clearTimeout(timer);
    fetch(`${base}/api/v1/jobs/${id}/cancel`, { method: "POST", keepalive: true }).catch(() => {}); // the page is gone
  }
  waiting.clear();
});

const RETRIED = {
  queued: ["A new job with the same settings is queued.", "good", 5_000],
  running: ["The new job is running.", "good", 5_000],
  succeeded: ["The new job has succeeded.", "good", 5_000],
  failed: ["The new job failed, too.", "bad", 10_000],
  cancelled: ["The new job was cancelled.", "info", 5_000],
};
let retried = null; // the newest one whose message is shown: {id, status, until, isOpen}

/** Retries a job. `key`: of the request, so that it makes one job even if it is sent again because its answer was lost. */
function retry(job, key = newKey()) {
  return attempt(async () => {
    const made = await post(`/api/v1/jobs/${job.id}/retry`, undefined, { key });
    mergeJobs([made]);
    enterList(made); // the feed may have added it already
    const isOpen = location.hash.startsWith("#job/");
    if (isOpen) location.hash = `job/${made.id}`;
    retried = { id: made.id, isOpen };
    followRetry();
  }, null, { not: `Not retried: ${titleOf(job).slice(0, 60)}`, again: () => retry(job, key) });
}

/** Shows what has become of the job that a retry has made, as long as its message is shown. */
function followRetry() {
  const { status } = state.jobs.get(retried?.id) ?? {};
  if (!(status in RETRIED) || status === retried.status || Date.now() > (retried.until ?? Infinity)) return;
  const [text, kind, milliseconds] = RETRIED[status];
  Object.assign(retried, { status, until: Date.now() + milliseconds });
  // Of several, the newest message is enough: the list shows all of them.
  const actions = retried.isOpen ? [] : [{ text: "Open", href: `#job/${retried.id}` }];
  showMessage(text, kind, { key: "retried", actions, milliseconds, dismissed: () => (retried = null) });
}

whenMoved(followRetry);

/** Returns what a confirmation of deleting says: how much is lost for good. */
export function deletion(count, noun = "job") {
  const isOne = count === 1;
  const what = isOne ? `this ${noun}` : plural(count, noun);
  const lost = noun === "video" ? (isOne ? "its job" : "their jobs") : isOne ? "its video" : "their videos";
  return {
    title: `Delete ${what}?`,
    text: `Deletes ${what} and ${lost} for good, also from favourites and collections, of others too. ${isOne ? "A job that runs is" : "Jobs that run are"} cancelled first. This cannot be undone.`,
    yes: `Delete ${what}`,
    no: isOne ? "Keep it" : "Keep them",
  };
}

export async function erase(job, gone) {
  if (!(await confirm({ ...deletion(1), lines: [titleOf(job)] }))) return;
  await attempt(async () => {
    noteCancel(job.id); // one that runs is cancelled first
    await remove(`/api/v1/jobs/${job.id}`);
    gone?.();
    removeJob(job.id);
  }, "Deleted", { not: `Not deleted: ${titleOf(job).slice(0, 60)}` });
}

/**
 * Returns what makes the job again, first what is likelier to succeed: the same settings, or others where the same would
 * fail again. `strong` and `weak`: the kinds of the first and of the other.
 */
export function again(job, strong, weak) {
  const reusing = (kind) => (job.type === "generation" ? reuse(job, kind) : null);
  if (job.status !== "failed" && job.status !== "cancelled") return reusing(weak);
  if (job.retried_as)
    return [h("a", { key: "retried", class: `button ${weak}`, href: `#job/${job.retried_as}`, "aria-label": `See the retry: ${titleOf(job).slice(0, 60)}` }, "See the retry"), reusing(weak)];
  const retrying = (kind) =>
    button("Retry", () => retry(job), { key: "retry", kind: `${kind} steer`, label: `Retry: ${titleOf(job).slice(0, 60)}` });
  const isHopeless = job.type === "generation" && job.status === "failed" && job.error?.retryable === false;
  return isHopeless ? [reusing(strong), retrying(weak)] : [retrying(strong), reusing(weak)];
}

/** A link to the form with the settings of this job. */
export function reuse(job, kind = "") {
  const label = `Reuse: ${titleOf(job).slice(0, 60)}`;
  return h("a", { key: "again", class: `button ${kind}`, href: `#new?from=${job.id}`, "aria-label": label }, "Reuse");
}

/** The button that cancels, and then, in the same place and with the focus that it had, takes that back. */
export function cancelButton(job, kind = "") {
  const title = titleOf(job).slice(0, 60);
  const [text, label] = isCancelling(job) ? ["Undo", `Undo the cancel: ${title}`] : ["Cancel", `Cancel: ${title}`];
  return button(text, () => turn(job), { key: "cancel", kind: `${kind} steer`, label });
}

/** The button that cancels all of these jobs that have not ended, and then takes that back; null for fewer than two. */
export function cancelAllButton(jobs, kind = "") {
  const open = jobs.filter((job) => !hasEnded(job));
  if (open.length < 2) return null;
  const isUndo = open.every(isCancelling);
  const act = () => {
    if (turned.id === ALL && Date.now() - turned.at < TWICE_MS) return;
    turned = { id: ALL, at: Date.now() };
    for (const job of open) if (isUndo) undo(job.id);
    else cancel(job);
  };
  return button(isUndo ? "Undo" : `Cancel all ${open.length}`, act, { key: "cancel-all", kind: `${kind} steer`, label: isUndo ? "Undo the cancel of all" : `Cancel all ${open.length}` });
}

/** The progress of a job that has not ended, or that its cancel is about to be sent. */
export const stateOf = (job) => (isCancelling(job) ? h("p", { class: "small muted" }, "Cancelling…") : progressOf(job));
