// The list of jobs: newest first, with filters, pages, and the actions for each job.

import { post, remove, newKey } from "../base/api.js";
import { batches } from "./batches.js";
import { bulkActions } from "./bulk.js";
import { attempt, confirm } from "../base/dialogs.js";
import { h, icon } from "../base/dom.js";
import { ago, moment, number, seconds, words } from "../base/format.js";
import * as load from "../base/load.js";
import { artifactOf, badge, button, durationOf, empty, loading, note, progressOf, select, titleOf } from "../base/parts.js";
import { enterList, removeJob, hasEnded, mergeJobs, state } from "../base/state.js";

const TYPES = ["generation", "download", "integrity_check", "cleanup", "prepare", "bulk"];
const STATES = ["queued", "running", "paused", "succeeded", "failed", "cancelled"];

export function jobs() {
  const { filters, after, ids, next } = state.list;
  const rows = (ids ?? []).map((id) => state.jobs.get(id)).filter(Boolean);
  return [
    h(
      "form",
      { class: "filters", "aria-label": "Filters", on: { submit: (event) => event.preventDefault() } },
      filter(
        "Type",
        "type",
        TYPES.map((one) => [one, words(one)]),
        filters,
      ),
      filter(
        "Status",
        "status",
        STATES.map((one) => [one, one]),
        filters,
      ),
      filter(
        "Model",
        "model_id",
        state.catalogue.map((entry) => [entry.model_id, entry.model_id]),
        filters,
      ),
    ),
    batches(),
    note(state.notes.jobs && `The jobs could not be loaded: ${state.notes.jobs}`, "bad"),
    ids === null && !state.notes.jobs ? loading() : null,
    ids && !rows.length
      ? empty(
          Object.values(filters).some(Boolean) ? "No job matches these filters. " : "No jobs yet. ",
          h("a", { href: "#new" }, "Create a video"),
        )
      : null,
    rows.length ? bulkActions() : null,
    rows.length ? table(rows) : null,
    after.length || next
      ? h(
          "div",
          { class: "row pager" },
          button("Newer", () => goTo(after.slice(0, -1)), { disabled: !after.length }),
          h("span", { class: "muted small" }, `page ${after.length + 1}`),
          button("Older", () => goTo([...after, next]), { disabled: !next }),
        )
      : null,
  ];
}

/** Applies the filters of the address, for example `#jobs?status=failed`. */
export function filterBy(query) {
  const filters = {
    type: query.get("type") ?? "",
    status: query.get("status") ?? "",
    model_id: query.get("model_id") ?? "",
    batch_id: query.get("batch_id") ?? "",
  };
  const same = Object.keys(filters).every((name) => filters[name] === state.list.filters[name]);
  if (!same) state.list = { filters, after: [], ids: null, next: null };
}

function filter(label, name, options, filters) {
  return select(label, name, [["", "all"], ...options], {
    key: `${name}:${filters[name]}`,
    value: filters[name],
    change: (event) => {
      const wanted = Object.entries({ ...filters, [name]: event.target.value }).filter(([, value]) => value);
      location.hash = wanted.length ? `jobs?${new URLSearchParams(wanted)}` : "jobs";
    },
  });
}

function goTo(after) {
  state.list = { ...state.list, after, ids: null };
  load.jobs().catch(() => {}); // the feed reports an unreachable server
  document.getElementById("h-jobs").focus({ preventScroll: true });
  scrollTo({ top: 0 });
}

function table(rows) {
  return h(
    "table",
    { class: "jobs", role: "table" },
    h("caption", { class: "hidden" }, "Jobs, newest first"),
    h(
      "thead",
      { role: "rowgroup" },
      h(
        "tr",
        { role: "row" },
        ["Job", "Status", "Created", "Duration", "Actions"].map((text) =>
          h("th", { key: text, scope: "col", role: "columnheader" }, text),
        ),
      ),
    ),
    h("tbody", { role: "rowgroup" }, rows.map(row)),
  );
}

function row(job) {
  const picture = artifactOf(job, "thumbnail");
  const title = titleOf(job);
  return h(
    "tr",
    { key: job.id, role: "row", "data-job": job.id },
    h(
      "td",
      { role: "cell", class: "job" },
      h(
        "a",
        { class: "job-link", href: `#job/${job.id}` },
        h(
          "span",
          { class: "frame" },
          picture
            ? h("img", { src: picture.url, alt: "", loading: "lazy" })
            : icon(job.type === "generation" ? "film" : "models"),
        ),
        h(
          "span",
          { class: "job-text" },
          h("span", { class: "title" }, title),
          h("span", { class: "small muted" }, about(job)),
        ),
      ),
    ),
    h(
      "td",
      { role: "cell", class: "state" },
      badge(job.status),
      job.priority === "normal" ? null : h("span", { class: "tag" }, job.priority),
      job.mock ? h("span", { class: "tag" }, "placeholder") : null,
      hasEnded(job)
        ? job.error
          ? h("span", { class: "small bad-text clamp" }, job.error.message)
          : null
        : progressOf(job),
    ),
    h("td", { role: "cell", class: "when", title: moment(job.created_at) }, ago(job.created_at)),
    h("td", { role: "cell", class: "took" }, seconds(durationOf(job))),
    h("td", { role: "cell", class: "actions" }, actions(job)),
  );
}

function about(job) {
  if (job.type === "generation") {
    const { resolution, frames, steps } = job.params;
    return `${job.model_id} · ${resolution} · ${number(frames)} frames · ${number(steps)} steps`;
  }
  return [words(job.type), job.params.node, job.params.repair ? "with repair" : ""].filter(Boolean).join(" · ");
}

/** Returns the buttons for what can be done to this job now. */
export function actions(job, { gone } = {}) {
  const title = titleOf(job).slice(0, 60);
  return [
    hasEnded(job)
      ? null
      : button("Cancel", () => cancel(job), { key: "cancel", kind: "quiet steer", label: `Cancel: ${title}` }),
    job.status === "failed" || job.status === "cancelled"
      ? button("Retry", () => retry(job), { key: "retry", kind: "quiet steer", label: `Retry: ${title}` })
      : null,
    job.type === "generation"
      ? h(
          "a",
          {
            key: "again",
            class: "button quiet",
            href: `#new?from=${job.id}`,
            "aria-label": `Use these settings again: ${title}`,
          },
          "Reuse",
        )
      : null,
    button("Delete", () => erase(job, gone), { key: "delete", kind: "quiet danger steer", label: `Delete: ${title}` }),
  ];
}

function cancel(job) {
  return attempt(async () => {
    const answer = await post(`/api/v1/jobs/${job.id}/cancel`);
    mergeJobs([answer]);
    return hasEnded(answer) ? "Cancelled" : "Cancellation requested";
  });
}

function retry(job) {
  return attempt(async () => {
    const made = await post(`/api/v1/jobs/${job.id}/retry`, undefined, { key: newKey() });
    mergeJobs([made]);
    enterList(made); // the feed may have added it already
    if (location.hash.startsWith("#job/")) location.hash = `job/${made.id}`;
  }, "A new job with the same settings is queued.");
}

async function erase(job, gone) {
  const what = hasEnded(job) ? "Its files are deleted too." : "It is cancelled first. Its files are deleted too.";
  if (!(await confirm({ title: "Delete this job?", text: what, lines: [titleOf(job)], yes: "Delete" }))) return;
  await attempt(async () => {
    await remove(`/api/v1/jobs/${job.id}`);
    gone?.();
    removeJob(job.id);
  }, "Deleted");
}
