// The jobs that this browser has submitted with this key: the entries beside the form, and the messages when they end.
// Their ids are kept in the browser, so that they are still here after the page was loaded again.

import { awaited } from "../base/awaited.js";
import { showMessage } from "../base/dialogs.js";
import { h, icon } from "../base/dom.js";
import { size } from "../base/format.js";
import * as load from "../base/load.js";
import { artifactOf, badge, empty, note, titleOf } from "../base/parts.js";
import { hasEnded, mergeJobs, state } from "../base/state.js";
import { cancelAllButton, cancelButton, reuse, stateOf, wasCancelledHere } from "../job/actions.js";
import { player } from "../job/player.js";
import { shareAt, shareButton, sharedLink } from "../job/sharing.js";
import * as stored from "./stored.js";

const SHOWN = 16;
const QUEUED_MS = 6_000;
const ENDED_MS = 10_000;

// Newest first: {ids: of jobs submitted at once, batch_id, close: ends its message, ended: how many have; null: not known
// yet, isEarlier: it was submitted before this page was loaded}.
let submitted = stored.submitted().map((one) => ({ ...one, close: () => {}, ended: null, isEarlier: true }));

state.readSubmitted = readSubmitted;
state.removed = (id) => forget(new Set([id]));

/** Notes jobs that were submitted at once, and says that they are queued. */
export function noteSubmitted(ids, batch_id) {
  const request = { ids, batch_id, ended: 0 };
  request.close = tell(request, ids.length === 1 ? "The job is queued." : `${ids.length} jobs are queued.`, "good", QUEUED_MS);
  submitted = [request, ...submitted.filter((one) => one.ids[0] !== ids[0])]; // what is sent twice is one request
  stored.rememberSubmitted(request);
}

const known = ({ ids }) => ids.map((id) => state.jobs.get(id)).filter(Boolean);

/** Whether the end of the job is news: the user knows of a cancel of their own. */
const isNews = (job) => hasEnded(job) && !wasCancelledHere(job);

/** Returns what was submitted last, {jobs, count, batch_id}, unless it had ended when the page was loaded. */
export function latest() {
  const [request] = submitted;
  if (!request || (request.isEarlier && request.ended !== 0)) return undefined;
  const jobs = known(request);
  return jobs.length ? { jobs, count: request.ids.length, batch_id: request.batch_id } : undefined;
}

/** Loads those that this page does not know, and forgets those that are no longer there. */
async function readSubmitted() {
  const unknown = submitted.flatMap(({ ids }) => ids).filter((id) => !state.jobs.has(id));
  const read = await Promise.all(unknown.map(load.one));
  mergeJobs(read.filter((job) => !job.deleted));
  forget(new Set(read.filter((job) => job.deleted).map(({ id }) => id)));
  for (const request of submitted) request.ended ??= known(request).filter(isNews).length; // they ended before the page was loaded
}

function forget(gone) {
  if (!submitted.some(({ ids }) => ids.some((id) => gone.has(id)))) return;
  for (const request of submitted) {
    // Of those that were submitted at once, the others that ended have been announced.
    if (request.ended) request.ended -= known(request).filter((job) => gone.has(job.id) && isNews(job)).length;
    request.ids = request.ids.filter((id) => !gone.has(id));
  }
  submitted = submitted.filter(({ ids }) => ids.length);
  stored.forgetSubmitted(gone);
}

/** Shows in any view that jobs of this page have ended, in the place of the message that they are queued. */
export function announceEnds() {
  for (const request of submitted) {
    if (request.ended === null) continue;
    const jobs = known(request);
    // From here on, the form shows their progress.
    if (document.documentElement.dataset.view === "new" && jobs.some((job) => job.status !== "queued")) request.close();
    if (jobs.length && jobs.every(hasEnded)) request.close();
    const ended = jobs.filter(isNews).length;
    if (ended <= request.ended) continue;
    request.ended = ended;
    if (document.documentElement.dataset.view === "new" && !jobs.every(hasEnded)) continue; // which the form shows
    const [ready, failed, cancelled] = ["succeeded", "failed", "cancelled"].map((status) => jobs.filter((job) => job.status === status).length);
    const kind = failed ? "bad" : ready ? "good" : "info"; // a cancel is nobody's failure
    const title = titleOf(jobs[0]).slice(0, 80);
    const others = `${failed ? `, ${failed} failed` : ""}${cancelled ? `, ${cancelled} cancelled` : ""}`;
    if (request.ids.length > 1) tell(request, `${ready} of ${request.ids.length} videos ${ready === 1 ? "is" : "are"} ready${others}.`, kind);
    else tell(request, `${ready ? "Your video is ready" : failed ? "Your job failed" : "Your job was cancelled"}: ${title}`, kind);
  }
}

/** Shows the one message of what was submitted at once. Returns a function that closes it. */
function tell({ ids, batch_id }, text, kind, milliseconds = ENDED_MS) {
  const isOne = ids.length === 1;
  const open = { text: "Open", href: isOne ? `#job/${ids[0]}` : `#jobs?batch_id=${batch_id}` };
  const job = isOne ? state.jobs.get(ids[0]) : null;
  const share = job && artifactOf(job, "video") ? [{ text: "Share", act: () => shareAt(job) }] : [];
  return showMessage(text, kind, { key: ids[0], actions: [open, ...share], milliseconds, only: false, stays: milliseconds === ENDED_MS });
}

export function results() {
  const jobs = submitted.flatMap(known).slice(0, SHOWN);
  const newest = submitted.length ? cancelAllButton(known(submitted[0]), "quiet") : null;
  const isAwaited = submitted.length && !jobs.length;
  return h(
    "section",
    { class: "panel", "aria-labelledby": "h-recent" },
    h("div", { class: "row between" }, h("h2", { id: "h-recent" }, "Your recent jobs"), h("div", { class: "row" }, newest, h("a", { href: "#jobs" }, "All jobs"))),
    jobs.length
      ? h("ul", { class: "now results" }, jobs.map(resultItem))
      : ((isAwaited && awaited("submitted", "recent jobs")) || empty("Jobs that you submit on this page appear here with their progress.")),
  );
}

function resultItem(job) {
  const video = artifactOf(job, "video");
  return h(
    "li",
    { key: job.id, "data-submitted": job.id, class: job.batch_id ? "of-several" : "" },
    h(
      "div",
      { class: "row between" },
      h("a", { class: "title", href: `#job/${job.id}` }, titleOf(job)),
      badge(job.status),
    ),
    hasEnded(job) ? null : stateOf(job),
    job.error ? note(job.error.message, "bad") : null,
    (job.fallback_applied ?? []).map((one) => note(one.message)),
    player(job, "small-player"),
    job.status === "succeeded" ? h("p", { class: "small muted" }, `seed ${String(job.params.seed)} · ${size(job.params.resolution)}`) : null,
    video
      ? h(
          "div",
          { class: "row wrap result-actions", key: "actions" },
          h("a", { class: "button", href: video.url, download: `${job.id}-${video.name}` }, icon("download"), "Download"),
          h("a", { class: "button quiet", href: `#job/${job.id}`, "aria-label": `Open: ${titleOf(job).slice(0, 60)}` }, "Open"),
          reuse(job, "quiet"),
          shareButton(job, "quiet"),
        )
      : null,
    hasEnded(job) ? null : h("div", { class: "row result-actions", key: "cancel" }, cancelButton(job, "quiet")),
    sharedLink(job),
  );
}
