// A job's attempts as a time line, with why each one ended; for administrators also the last lines of the log.

import { h } from "../base/dom.js";
import { at, moment, seconds } from "../base/format.js";
import { lastLines } from "../base/log.js";
import { badge } from "../base/parts.js";
import { deviceNamed } from "../base/state.js";

const WORDS = { lost: "crashed or lost", returned: "returned to the queue", preempted: "made room for a more urgent job" };

export function attempts(job) {
  const rows = job.attempt_history ?? [];
  const admin = document.body.dataset.scopes.includes("admin");
  if (!rows.length && !(admin && job.attempt)) return null;
  return h(
    "section",
    { class: "part", key: "attempts" },
    rows.length ? h("h3", null, "Attempts") : null,
    rows.length ? h("ol", { class: "timeline" }, rows.map(one)) : null,
    admin ? lastLines(`/api/v1/jobs/${job.id}/log`, "The nodes that ran the job logged nothing about it.") : null,
  );
}

function one(row) {
  const lasted = row.started_at ? (Date.parse(row.ended_at) - Date.parse(row.started_at)) / 1000 : null;
  return h(
    "li",
    { key: row.attempt, class: `attempt ${row.outcome}` },
    h(
      "p",
      { class: "row wrap" },
      h("b", null, `Attempt ${row.attempt}`),
      badge(row.outcome === "lost" ? "failed" : row.outcome, WORDS[row.outcome] ?? row.outcome),
      h("span", { class: "muted small", title: moment(row.started_at) }, `${at(row.started_at)}, ${seconds(lasted)}${row.device ? `, on ${deviceNamed(row.node, row.device)}` : ""}`),
    ),
    row.reason ? h("p", { class: "small" }, row.reason) : null,
    row.resumed_from_step ? h("p", { class: "muted small" }, `It continued after step ${row.resumed_from_step}.`) : null,
  );
}
