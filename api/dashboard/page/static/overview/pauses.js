// What is paused, on the overview: administrators pause and resume the queue here.

import { post } from "../base/api.js";
import { awaited } from "../base/awaited.js";
import { attempt, confirm, showMessage } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { ago, at } from "../base/format.js";
import * as load from "../base/load.js";
import { badge, button } from "../base/parts.js";
import { changed, deviceNamed, state } from "../base/state.js";
import { isAdmin } from "./usage.js";

const NAMES = { model_id: "model", device: "device", node: "node", key: "API key", job_type: "job type" };
const RESUME_MS = 10_000;

/** Whether the whole queue is paused. */
export const isQueuePaused = () => (state.pauses ?? []).some((row) => row.scope === "everything");

/** Says what is paused, and what that means for jobs; null: nothing. */
export function pauseInForce() {
  if (isQueuePaused()) return "The queue is paused: jobs wait until it is resumed";
  const parts = (state.pauses ?? []).map(nameOf);
  if (!parts.length) return null;
  return `Paused: ${parts.join(", ")}. Jobs for ${parts.length === 1 ? "it wait until it is" : "them wait until they are"} resumed`;
}

/** Shows the pauses that are in force, always in the same place. Administrators pause the queue here. */
export function pauses() {
  const rows = state.pauses ?? [];
  if (!rows.length && !isAdmin()) return null;
  return h(
    "section",
    { class: "panel", "aria-labelledby": "h-pauses", key: "pauses" },
    h(
      "div",
      { class: "row between wrap" },
      h(
        "div",
        { class: "row wrap" },
        h("h2", { id: "h-pauses" }, "Queue"),
        rows.length ? badge("paused", isQueuePaused() ? "paused" : "partly paused") : null,
        state.pauses && !rows.length ? h("span", { class: "muted" }, "Nothing is paused.") : null,
      ),
      isAdmin() && state.pauses && !isQueuePaused() ? button("Pause the queue", pauseQueue, { key: "pause" }) : null,
    ),
    awaited("pauses", "pauses", state.pauses),
    rows.length ? h("ul", { class: "pauses" }, rows.map(line)) : null,
  );
}

const nameOf = (row) =>
  row.scope === "everything" ? "The whole queue" : `${NAMES[row.scope]} ${row.scope === "device" ? deviceNamed(row.value) : row.value}`;

function line(row) {
  const what = nameOf(row);
  const end = row.until ? ` until ${at(row.until)}` : "";
  const reason = row.reason ? `: ${row.reason}` : "";
  return h(
    "li",
    { key: row.id, class: "row between" },
    h("span", null, `${what}${end}, by ${row.created_by} ${ago(row.created_at)}${reason}`),
    isAdmin() ? button("Resume", () => resume(row), { label: `Resume ${what}` }) : null,
  );
}

async function pauseQueue() {
  const text = "Running jobs finish, nothing new starts. Jobs can still be submitted.";
  if (!(await confirm({ title: "Pause the whole queue?", text, yes: "Pause the queue", kind: "primary" }))) return;
  if (await attempt(() => change("pause", {})))
    showMessage("The queue is paused: nothing new starts.", "info", { actions: [{ text: "Resume", act: resumeQueue }], milliseconds: RESUME_MS });
}

export const resumeQueue = () => attempt(() => change("resume", {}), "The queue runs again.");

function resume(row) {
  if (row.scope === "everything") return resumeQueue();
  return attempt(() => change("resume", { [row.scope]: row.value }), `Resumed: ${nameOf(row)}`);
}

async function change(act, scope) {
  state.pauses = (await post(`/api/v1/queues/${act}`, scope)).pauses;
  changed();
  load.active().catch(() => {}); // the jobs say what they wait for; a lost server is shown by the feed
}
