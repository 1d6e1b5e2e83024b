// The rows of the list. A click anywhere on a row opens the job; its link stays for keyboards and middle clicks.

import { h, icon } from "../base/dom.js";
import { ago, moment, number, seconds, size, words } from "../base/format.js";
import { artifactOf, badge, durationOf, placeTags, thumbnail, titleOf } from "../base/parts.js";
import { hasEnded } from "../base/state.js";
import { again, cancelButton, stateOf } from "../job/actions.js";
import { dragging, droppable, isMovable, moveByKey, under } from "./moving.js";
import { isSelected, selectAll, selectByKey, toggle } from "./selection.js";

const INTERACTIVE = "a, button, input, label, select, summary, .grip";

export function table(rows) {
  return h(
    "table",
    { class: "jobs", role: "table", key: "jobs" },
    h("caption", { class: "hidden" }, "Jobs"),
    h(
      "thead",
      { role: "rowgroup" },
      h(
        "tr",
        { role: "row" },
        h("th", { key: "pick", scope: "col", role: "columnheader", class: "pick" }, pickAll(rows)),
        [["Job", "job"], ["Status", "state"], ["Created", "when"], ["Duration", "took"], ["Actions", "actions"]].map(([text, place]) =>
          h("th", { key: text, scope: "col", role: "columnheader", class: place }, text),
        ),
      ),
    ),
    h("tbody", { role: "rowgroup", heir: ".job-link" }, rows.map(row)),
  );
}

function pickAll(rows) {
  const all = rows.every((job) => isSelected(job.id));
  return h("input", {
    type: "checkbox",
    key: `all:${all}`,
    checked: all,
    "aria-label": "Select all jobs on this page",
    on: { change: (event) => selectAll(rows, event.target.checked) },
  });
}

function row(job) {
  const title = titleOf(job);
  const movable = isMovable(job);
  return h(
    "tr",
    {
      key: job.id,
      role: "row",
      "data-job": job.id,
      heir: ".job-link",
      class: `${isSelected(job.id) ? "selected" : ""} ${under(job)}`,
      draggable: movable ? "true" : undefined,
      on: { click: (event) => openRow(event, job), dragstart: (event) => dragging(event, job), dragend: () => dragging(null), ...droppable(job) },
    },
    h(
      "td",
      { role: "cell", class: "pick" },
      movable ? h("span", { key: "grip", class: "grip", "aria-hidden": "true", title: "Drag onto the first job to start next, or onto a job of another priority" }, icon("drag")) : null,
      h("input", {
        key: "box",
        type: "checkbox",
        "aria-label": `Select: ${title.slice(0, 60)}`,
        own: (box) => {
          box.checked = isSelected(job.id);
        },
        on: {
          click: (event) => toggle(job.id, event.shiftKey), // also by Space
          keydown: (event) => selectByKey(event, job),
        },
      }),
    ),
    h(
      "td",
      { role: "cell", class: "job" },
      h(
        "a",
        {
          class: "job-link",
          href: `#job/${job.id}`,
          "aria-keyshortcuts": `Shift+ArrowUp Shift+ArrowDown${movable ? " Alt+ArrowUp Alt+ArrowDown Alt+Home" : ""}`,
          on: {
            keydown: (event) => {
              selectByKey(event, job);
              moveByKey(event, job);
            },
          },
        },
        frame(job),
        h("span", { class: "job-text" }, h("span", { class: "title" }, title), h("span", { class: "small muted about" }, about(job))),
      ),
    ),
    h(
      "td",
      { role: "cell", class: "state" },
      badge(job.status),
      placeTags(job),
      job.mock ? h("span", { class: "tag" }, "placeholder") : null,
      hasEnded(job)
        ? job.error
          ? h("span", { class: "small bad-text clamp" }, job.error.message)
          : null
        : stateOf(job),
    ),
    h(
      "td",
      { role: "cell", class: "when", title: moment(job.created_at) },
      ago(job.created_at),
      hasEnded(job) && durationOf(job) !== null ? h("span", { class: "ran" }, ` · ran ${seconds(durationOf(job))}`) : null,
    ),
    h("td", { role: "cell", class: "took", title: "From the first start to the end" }, seconds(durationOf(job))),
    h("td", { role: "cell", class: "actions" }, actions(job)),
  );
}

function frame(job) {
  const picture = artifactOf(job, "thumbnail");
  return h(
    "span",
    { class: "frame" },
    job.type === "generation" ? thumbnail(picture?.url) : icon("models"),
  );
}

/** What is done to one job most often; the rest is in its dialog, or on all selected ones. */
function actions(job) {
  return [
    hasEnded(job) ? null : cancelButton(job, "quiet"),
    again(job, "quiet outlined", "quiet"),
  ];
}

function openRow(event, job) {
  if (event.defaultPrevented || event.button !== 0 || event.target.closest(INTERACTIVE)) return;
  if (String(getSelection())) return; // text is being selected
  location.hash = `job/${job.id}`;
}

function about(job) {
  if (job.type === "generation") {
    const { resolution, frames, steps } = job.params;
    // Jobs of a batch often differ in their seeds alone.
    const seed = job.batch_id ? ` · seed ${String(job.params.seed)}` : "";
    return `${job.model_id} · ${size(resolution)} · ${number(frames)} frames · ${number(steps)} steps${seed}`;
  }
  return [words(job.type), job.params.node, job.params.repair ? "with repair" : ""].filter(Boolean).join(" · ");
}
