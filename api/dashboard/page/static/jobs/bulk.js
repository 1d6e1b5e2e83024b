// Actions on all jobs that match the filters of the list, after the server has counted them.

import { newKey, post } from "../base/api.js";
import { attempt, confirm } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { number, words } from "../base/format.js";
import * as load from "../base/load.js";
import { button, select } from "../base/parts.js";
import { state } from "../base/state.js";
import { asked } from "../base/list_address.js";

const ACTIONS = {
  cancel: { button: "Cancel all", verb: "Cancel", done: "cancelled" },
  retry: { button: "Retry all", verb: "Retry", done: "retried" },
  delete: { button: "Delete all", verb: "Delete", done: "deleted", text: "Jobs that run are cancelled first. All files are deleted too." },
  set_priority: { verb: "Change the priority of", done: "changed" },
};
const PRIORITIES = ["critical", "high", "normal", "low"];

/** Shows what can be done to every job that matches, on all pages of the list. */
export function bulkActions() {
  if (state.list.filters.search) return null; // the server acts on filters, not on words
  return h(
    "details",
    { class: "bulk", key: "bulk" },
    h("summary", null, "Act on all that match"),
    h(
    "div",
    { class: "row wrap", role: "group", "aria-label": "All jobs that match" },
    ["cancel", "retry", "delete"].map((action) =>
      button(ACTIONS[action].button, () => start(action), {
        key: action,
        kind: action === "delete" ? "quiet danger steer" : "quiet steer",
      }),
    ),
    select("Priority of all", "bulk-priority", [["", "–"], ...PRIORITIES], {
      change: (event) => {
        const priority = event.target.value;
        event.target.value = "";
        if (priority) start("set_priority", priority);
      },
    }),
    ),
  );
}

async function start(action, priority) {
  const given = Object.entries(state.list.filters).filter(([, value]) => value);
  const filter = given.length ? asked(state.list.filters) : { all: true };
  const body = { action, filter, ...(priority ? { priority } : {}) };
  const { verb, done, text } = ACTIONS[action];
  await attempt(async () => {
    const { matched } = await post("/api/v1/jobs/bulk", { ...body, dry_run: true });
    const title = `${verb} ${number(matched)} job${matched === 1 ? "" : "s"}?`;
    const lines = given.length ? given.map(([name, value]) => `${words(name)}: ${value}`) : ["Every job, without a filter"];
    if (!matched) return "No job matches.";
    if (!(await confirm({ title, text, lines, yes: verb === "Cancel" ? "Cancel the jobs" : verb }))) return null;
    const result = await post("/api/v1/jobs/bulk", body, { key: newKey(), timeout: 60_000 });
    load.jobs().catch(() => {}); // the feed reports an unreachable server
    if (result.job_id) {
      location.hash = `job/${result.job_id}`;
      return `${number(matched)} jobs: a job of its own carries it out.`;
    }
    const left = Object.entries(result.skipped).map(([reason, count]) => `${number(count)} ${words(reason)}`);
    return `${number(result.changed)} ${done}${left.length ? `; left out: ${left.join(", ")}` : ""}`;
  });
}
