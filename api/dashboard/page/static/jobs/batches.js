// The batches on the list of jobs: the newest ones, or the one whose jobs are listed, with its archive.

import { base, get, post } from "../base/api.js";
import { problem } from "../base/awaited.js";
import { attempt, confirm } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { ago, number, plural } from "../base/format.js";
import * as load from "../base/load.js";
import { badge, bar, button } from "../base/parts.js";
import { noteCancel } from "../job/actions.js";
import { changed, hasEnded, state } from "../base/state.js";

const NAMED_BY = 16; // jobs, the most that the form makes at once
const AGAIN_MS = 5_000;

const prompts = new Map(); // by the id of a batch: {text, differ}; null while it is asked for, or where no job is left
let isOpen = false; // whether the newest batches are shown

/** Shows the batch whose jobs are listed, or else links to the newest batches. */
export function batches() {
  const why = problem("batches", "batches", state.batches);
  const { newest = [], shown = null } = state.batches ?? {};
  if (state.list.filters.batch_id) return [why, shown?.id === state.list.filters.batch_id ? one(shown) : null];
  if (!newest.length) return why;
  return [
    why,
    h(
      "details",
      { class: "batches", key: "batches", on: { toggle: turned } },
      h("summary", null, "Batches"),
      h("ul", { class: "plain-list" }, isOpen ? newest.map(line) : null),
    ),
  ];
}

function turned(event) {
  isOpen = event.target.open;
  if (isOpen) changed(); // their names are asked for
}

/** Returns the batch's name, else the prompt of its first job, else how large it is. */
function nameOf(batch) {
  if (batch.name) return batch.name;
  if (!prompts.has(batch.id)) readPrompt(batch.id);
  const found = prompts.get(batch.id);
  if (!found) return `Batch of ${plural(batch.total, "job")}`;
  return `${found.text.length > 80 ? `${found.text.slice(0, 79)}…` : found.text}${found.differ ? " and others" : ""}`;
}

/** Reads the prompts of a batch once: they never change. Of a large batch, those of its first jobs. */
async function readPrompt(id) {
  prompts.set(id, null);
  try {
    const { data } = await get("/api/v1/jobs", { batch_id: id, order: "oldest", limit: NAMED_BY });
    const texts = data.map((job) => job.params.prompt);
    if (texts.length) prompts.set(id, { text: texts[0], differ: texts.some((text) => text !== texts[0]) });
    changed();
  } catch {
    setTimeout(() => prompts.delete(id), AGAIN_MS); // the feed reports an unreachable server
  }
}
const ended = (batch) => batch.counts.succeeded + batch.counts.failed + batch.counts.cancelled;

/** Returns a link to the finished videos, or a note while there is none. */
function archive(batch) {
  const { counts, total } = batch;
  if (!counts.succeeded) return h("span", { class: "muted" }, batch.finished_at ? "no video to download" : "no video to download yet");
  const text = counts.succeeded === total ? "Download as zip" : `Download ${number(counts.succeeded)} of ${number(total)} as zip`;
  return h("a", { href: `${base}/api/v1/batches/${batch.id}/artifacts.zip`, download: "" }, text);
}

/** How the batch has ended: of one that succeeded in part, that matters more than how the rest ended. */
function outcome({ status, counts: { succeeded }, total, finished_at }) {
  const isPart = finished_at && succeeded && succeeded < total;
  return isPart ? badge("partly", `${number(succeeded)} of ${number(total)} succeeded`) : badge(status);
}

function line(batch) {
  return h(
    "li",
    { key: batch.id },
    outcome(batch),
    " ",
    h("a", { href: `#jobs?batch_id=${batch.id}` }, nameOf(batch)),
    ` · ${number(ended(batch))} of ${number(batch.total)} ended · ${ago(batch.created_at)} · `,
    archive(batch),
  );
}

function one(batch) {
  const { succeeded, failed, cancelled } = batch.counts;
  return h(
    "section",
    { class: "batch", key: `batch ${batch.id}`, "aria-labelledby": "h-batch" },
    h("h2", { id: "h-batch" }, nameOf(batch)),
    h(
      "p",
      null,
      outcome(batch),
      ` ${plural(batch.total, "job")}, ${ago(batch.created_at)}: ${number(succeeded)} succeeded, ${number(failed)} failed, ${number(cancelled)} cancelled`,
    ),
    batch.finished_at ? null : h("p", { class: "progress" }, bar(batch.percent, `Progress of ${nameOf(batch)}`)),
    h(
      "p",
      { class: "row" },
      archive(batch),
      h("a", { href: "#jobs" }, "Show all jobs"),
      batch.finished_at ? null : button("Cancel the batch", () => cancel(batch), { kind: "quiet danger steer" }),
    ),
  );
}

async function cancel(batch) {
  const left = batch.total - ended(batch);
  if (!(await confirm({ title: "Cancel this batch?", text: `${number(left)} jobs have not ended.`, yes: "Cancel the batch", no: "Keep it" })))
    return;
  await attempt(async () => {
    for (const job of state.jobs.values()) if (job.batch_id === batch.id && !hasEnded(job)) noteCancel(job.id);
    await post(`/api/v1/batches/${batch.id}/cancel`);
    load.jobs().catch(() => {}); // the feed reports an unreachable server
  }, "The batch is cancelled.", { not: "The batch is not cancelled" });
}
