// What is paused, on the overview: administrators pause and resume the queue here.

import { post } from "../base/api.js";
import { awaited, isOutdated } from "../base/awaited.js";
import { attempt, confirm, showMessage } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { ago, at } from "../base/format.js";
import * as load from "../base/load.js";
import { badge, button } from "../base/parts.js";
import { changed, deviceNamed, noDevice, state } from "../base/state.js";
import { isAdmin } from "./usage.js";

const NAMES = { model_id: "model", device: "device", node: "node", key: "API key", job_type: "job type" };
const RESUME_MS = 10_000;

/** A pause of a node is its drain, and is called so wherever it is shown. */
const isDrain = (row) => row.scope === "node";

/** Whether the whole queue is paused. */
export const isQueuePaused = () => (state.pauses ?? []).some((row) => row.scope === "everything");

/** Returns the pause without an end that holds new videos of this model; undefined: none does. */
export const pauseOf = (modelId) =>
  state.pauses?.find(({ scope, value, until }) => !until && (scope === "everything" || value === { model_id: modelId, job_type: "generation" }[scope]));

/** Says that nothing starts; `why` as `noDevice` gives it. */
export const noneOpen = (why) => `No device accepts jobs: ${why}. Jobs stay queued`;

/** Says what is paused, and what that means for jobs; null: nothing. */
export function pauseInForce() {
  if (isQueuePaused()) return "The queue is paused: jobs wait until it is resumed";
  const rows = state.pauses ?? [];
  if (!rows.length) return null;
  const none = noDevice();
  if (none) return noneOpen(none);
  if (rows.every(isDrain)) return `Drained: ${rows.map((row) => row.value).join(", ")}. Jobs run on other nodes, or wait`;
  const parts = rows.map(nameOf).join(", ");
  if (rows.every((row) => row.scope === "device")) return `Paused: ${parts}. Jobs run on other devices, or wait`;
  return `Paused: ${parts}. ${rows.length === 1 ? "Its jobs wait until it is" : "Their jobs wait until they are"} resumed`;
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
        rows.length ? badge("paused", rows.every(isDrain) ? "drained" : isQueuePaused() || noDevice() !== null ? "paused" : "partly paused") : null,
        state.pauses && !rows.length && !isOutdated("pauses") ? h("span", { class: "muted" }, "Nothing is paused.") : null,
      ),
      isAdmin() && state.pauses && !isQueuePaused() ? button("Pause the queue", pauseQueue, { key: "pause" }) : null,
    ),
    awaited("pauses", "state of the queue", state.pauses),
    rows.length ? h("ul", { class: "pauses" }, rows.map(line)) : null,
  );
}

export const nameOf = (row) =>
  row.scope === "everything" ? "The whole queue" : `${NAMES[row.scope]} ${row.scope === "device" ? deviceNamed(row.value) : row.value}`;

function line(row) {
  const what = nameOf(row);
  const end = row.until ? ` until ${at(row.until)}` : "";
  const reason = row.reason ? `: ${row.reason}` : "";
  return h(
    "li",
    { key: row.id, class: "row between" },
    h("span", null, `${row.scope === "everything" ? "" : `${what}: `}${isDrain(row) ? "drained" : "paused"} by ${row.created_by}, ${ago(row.created_at)}${end}${reason}`),
    isAdmin() ? button(isDrain(row) ? "Take jobs again" : "Resume", () => resume(row), { label: isDrain(row) ? `Take jobs again on ${row.value}` : `Resume ${row.scope === "everything" ? "the queue" : what}` }) : null,
  );
}

/** Says that something is paused, and what that means; administrators end it here. `row`: the pause. */
export function pausedLine(row, meaning = "") {
  const name = row.scope === "everything" ? "queue" : nameOf(row);
  return h(
    "div",
    { key: "paused", class: "row" },
    h("p", { class: "warn-text" }, `The ${name} is paused${row.until ? ` until ${at(row.until)}` : ""}. ${meaning}`.trim()),
    isAdmin() ? button("Resume", () => resume(row), { label: `Resume the ${name}` }) : null,
  );
}

/** Says above the list of jobs, whose rows say what it means, that none starts; null: some may. */
export function queueHeld() {
  const row = (state.pauses ?? []).find(({ scope }) => scope === "everything");
  if (row) return pausedLine(row);
  const none = noDevice();
  return none && h("p", { key: "held", class: "warn-text" }, `No device accepts jobs: ${none}. `, h("a", { href: "#devices" }, "Devices"));
}

async function pauseQueue() {
  const text = "Running jobs finish, nothing new starts. Jobs can still be submitted.";
  if (!(await confirm({ title: "Pause the whole queue?", text, yes: "Pause the queue", kind: "primary" }))) return;
  if (await attempt(() => change("pause", {}), null, { not: "The queue is not paused" }))
    showMessage("The queue is paused: nothing new starts.", "info", { actions: [{ text: "Resume", act: resumeQueue }], milliseconds: RESUME_MS, only: false, stays: true });
}

export const resumeQueue = () => attempt(() => change("resume", {}), "The queue runs again.", { not: "The queue is still paused" });

export function resume(row) {
  if (row.scope === "everything") return resumeQueue();
  const [done, not] = isDrain(row) ? [`${row.value} takes jobs again.`, `${row.value} is still drained`] : [`Resumed: ${nameOf(row)}`, `Not resumed: ${nameOf(row)}`];
  return attempt(() => change("resume", { [row.scope]: row.value }), done, { not });
}

async function change(act, scope) {
  state.pauses = (await post(`/api/v1/queues/${act}`, scope)).pauses;
  changed();
  load.active().catch(() => {}); // the jobs say what they wait for; a lost server is shown by the feed
}
