// What is done to one job: cancel (with some seconds to undo it), retry, reuse, delete.

import { base, newKey, post, remove } from "../base/api.js";
import { attempt, confirm, showMessage } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { button, titleOf } from "../base/parts.js";
import { plural } from "../base/format.js";
import { changed, enterList, hasEnded, mergeJobs, removeJob } from "../base/state.js";

const UNDO_MS = 5_000;

const waiting = new Map(); // jobs whose cancel is not sent yet, by id: {title, timer}
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
    actions: [{ text: "Undo", act: undo }],
    dismissed: () => {
      isDismissed = true;
    },
  });
  return null;
}

function undo() {
  for (const { timer } of waiting.values()) clearTimeout(timer);
  waiting.clear();
  changed();
}

async function send(job) {
  waiting.delete(job.id);
  offerUndo();
  noteCancel(job.id);
  await attempt(async () => {
    const answer = await post(`/api/v1/jobs/${job.id}/cancel`);
    mergeJobs([answer]);
    return hasEnded(answer) ? "Cancelled" : "Cancellation requested";
  });
  changed();
}

addEventListener("pagehide", () => {
  for (const [id, { timer }] of waiting) {
    clearTimeout(timer);
    fetch(`${base}/api/v1/jobs/${id}/cancel`, { method: "POST", keepalive: true }).catch(() => {}); // the page is gone
  }
  waiting.clear();
});

function retry(job) {
  return attempt(async () => {
    const made = await post(`/api/v1/jobs/${job.id}/retry`, undefined, { key: newKey() });
    mergeJobs([made]);
    enterList(made); // the feed may have added it already
    const isOpen = location.hash.startsWith("#job/");
    if (isOpen) location.hash = `job/${made.id}`;
    // Of several, the newest message is enough: the list shows all of them.
    const actions = isOpen ? [] : [{ text: "Open", href: `#job/${made.id}` }];
    showMessage("A new job with the same settings is queued.", "good", { key: "retried", actions });
  });
}

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
  }, "Deleted");
}

/**
 * Returns what makes the job again, first what is likelier to succeed: the same settings, or others where the same would
 * fail again. `strong` and `weak`: the kinds of the first and of the other.
 */
export function again(job, strong, weak) {
  const reusing = (kind) => (job.type === "generation" ? reuse(job, kind) : null);
  if (job.status !== "failed" && job.status !== "cancelled") return reusing(weak);
  const retrying = (kind) =>
    button("Retry", () => retry(job), { key: "retry", kind: `${kind} steer`, label: `Retry: ${titleOf(job).slice(0, 60)}` });
  const isHopeless = job.type === "generation" && job.status === "failed" && job.error?.retryable === false;
  return isHopeless ? [reusing(strong), retrying(weak)] : [retrying(strong), reusing(weak)];
}

/** A link to the form with the settings of this job. */
export function reuse(job, kind = "") {
  const label = `Use these settings again: ${titleOf(job).slice(0, 60)}`;
  return h("a", { key: "again", class: `button ${kind}`, href: `#new?from=${job.id}`, "aria-label": label }, "Reuse");
}

export const cancelButton = (job, kind = "") =>
  button(isCancelling(job) ? "Cancelling…" : "Cancel", () => cancel(job), {
    key: "cancel",
    kind: `${kind} steer`,
    disabled: isCancelling(job),
    label: `Cancel: ${titleOf(job).slice(0, 60)}`,
  });
