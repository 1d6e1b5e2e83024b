// What is paused, on the overview: administrators pause and resume the queue here.

import { post } from "../base/api.js";
import { h } from "../base/dom.js";
import { ago, at } from "../base/format.js";
import * as load from "../base/load.js";
import { button, loading, note } from "../base/parts.js";
import { changed, state } from "../base/state.js";
import { isAdmin } from "./usage.js";

const NAMES = { model_id: "model", device: "device", node: "node", key: "API key", job_type: "job type" };
let failed = null;

/** Shows the pauses that are in force. Administrators also see it without any, to pause the queue. */
export function pauses() {
  const rows = state.pauses ?? [];
  if (!rows.length && !isAdmin()) return null;
  const all = rows.some((row) => row.scope === "everything");
  return h(
    "section",
    { class: "panel", "aria-labelledby": "h-pauses" },
    h("h2", { id: "h-pauses" }, rows.length ? "Paused" : "Queue"),
    note(state.notes.pauses && `The pauses could not be loaded: ${state.notes.pauses}`, "bad"),
    note(failed && `Not changed: ${failed}`, "bad"),
    rows.length
      ? h("ul", { class: "pauses" }, rows.map(line))
      : state.pauses
        ? h("p", null, "Nothing is paused.")
        : loading(),
    isAdmin() && !all ? h("p", null, button("Pause the queue", () => change("pause", {}))) : null,
  );
}

function line(row) {
  const what = row.scope === "everything" ? "The whole queue" : `${NAMES[row.scope]} ${row.value}`;
  const end = row.until ? ` until ${at(row.until)}` : "";
  const reason = row.reason ? `: ${row.reason}` : "";
  return h(
    "li",
    { key: row.id },
    `${what}${end}, by ${row.created_by} ${ago(row.created_at)}${reason} `,
    isAdmin() ? button("Resume", () => change("resume", scopeOf(row)), { label: `Resume ${what}` }) : null,
  );
}

const scopeOf = (row) => (row.scope === "everything" ? {} : { [row.scope]: row.value });

async function change(act, scope) {
  try {
    state.pauses = (await post(`/api/v1/queues/${act}`, scope)).pauses;
    failed = null;
  } catch (error) {
    failed = error.message;
  }
  changed();
  load.active().catch(() => {}); // the jobs say what they wait for; a lost server is shown by the feed
}
