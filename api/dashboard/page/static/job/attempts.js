// A job's attempts as a time line, with why each one ended; for administrators also the last lines of the log.

import { get } from "../base/api.js";
import { h } from "../base/dom.js";
import { at, moment, seconds } from "../base/format.js";
import { badge, button, note } from "../base/parts.js";
import { changed } from "../base/state.js";

const WORDS = { lost: "crashed or lost", returned: "returned to the queue", preempted: "made room for a more urgent job" };

let log = { of: null, lines: null, problem: null };

export function attempts(job) {
  const rows = job.attempt_history ?? [];
  const admin = document.body.dataset.scopes.includes("admin");
  if (!rows.length && !(admin && job.attempt)) return null;
  return h(
    "section",
    { class: "part", key: "attempts" },
    rows.length ? h("h3", null, "Attempts") : null,
    rows.length ? h("ol", { class: "timeline" }, rows.map(one)) : null,
    admin ? logOf(job) : null,
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
      h("span", { class: "muted small", title: moment(row.started_at) }, `${at(row.started_at)}, ${seconds(lasted)}${row.device ? `, on ${row.node} / ${row.device}` : ""}`),
    ),
    row.reason ? h("p", { class: "small" }, row.reason) : null,
    row.resumed_from_step ? h("p", { class: "muted small" }, `It continued after step ${row.resumed_from_step}.`) : null,
  );
}

function logOf(job) {
  const mine = log.of === job.id ? log : { lines: null, problem: null };
  return h(
    "details",
    { key: "log", on: { toggle: (event) => event.target.open && readLog(job) } },
    h("summary", null, "Last lines of the log"),
    note(mine.problem, "bad"),
    mine.lines
      ? mine.lines.length
        ? h("pre", { tabindex: "0", "aria-label": "Log" }, mine.lines.map((line) => `${line.time} ${line.level} ${line.process}: ${line.message}`).join("\n"))
        : h("p", { class: "muted small" }, "No line on this host names the job.")
      : mine.problem
        ? null
        : h("p", { class: "muted small" }, "Loading…"),
    mine.lines ? button("Read again", () => readLog(job), { kind: "quiet" }) : null,
  );
}

async function readLog(job) {
  try {
    const found = await get(`/api/v1/jobs/${job.id}/log`);
    log = { of: job.id, lines: found.lines, problem: null };
  } catch (error) {
    log = { of: job.id, lines: null, problem: error.message };
  }
  changed();
}
