// Moves queued jobs: to the front and back, or to another priority. By dragging a row onto a target, with Alt and the arrow keys on
// its link, or in the job's dialog.

import { patch, post, remove } from "../base/api.js";
import { attempt, showMessage } from "../base/dialogs.js";
import { h, icon } from "../base/dom.js";
import * as load from "../base/load.js";
import { button, select, titleOf } from "../base/parts.js";
import { afterDrawing, changed, mergeJobs, state } from "../base/state.js";

const PRIORITIES = ["critical", "high", "normal", "low"];
const may = (scope) => document.body.dataset.scopes.includes(scope);

let dragged = null;
let over = null; // the target under the pointer
let row = null; // the id of the job under it

/** Returns whether the job can be moved by this key: it waits, and the key may change jobs. */
export const isMovable = (job) => (job.status === "queued" || job.status === "paused") && may("submit");

const mayBeFirst = (job) => may("admin") && job.status === "queued";
const isAtFront = (job) => Boolean(job.moved_to_front_at) && job.status === "queued";
const stays = (job, target) => job.priority === target && !(isAtFront(job) && may("admin"));

/** What moves a job that waits, for its dialog; null where the key may not, or it waits no more. */
export function placeActions(job) {
  if (!isMovable(job)) return null;
  return [
    mayBeFirst(job)
      ? button(isAtFront(job) ? "Back to its place" : "Move to the front", () => move(job, isAtFront(job) ? "back" : "front"), { key: "front", kind: "steer" })
      : null,
    h(
      "span",
      { key: `priority:${job.priority}`, class: "priority steer" },
      select("Priority", "priority", PRIORITIES, { value: job.priority, change: (event) => move(job, event.target.value) }),
    ),
  ];
}

/** Notes the job that is dragged; null: none any more. */
export function dragging(event, job) {
  dragged = event && job ? job : null;
  over = row = null;
  if (event) {
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setData("text/plain", job.id);
  }
  changed();
}

/** Shows where a dragged job can be dropped. */
export function dropZones() {
  if (!dragged) return null;
  const targets = [...(mayBeFirst(dragged) ? [["front", "To the front"]] : []), ...PRIORITIES.map((one) => [one, `Priority ${one}`])];
  return h(
    "div",
    { class: "drop-zones", key: "drop", "aria-hidden": "true" },
    targets.map(([target, text]) =>
      h(
        "div",
        {
          key: target,
          "data-drop": target,
          class: `drop-zone ${over === target ? "over" : ""} ${stays(dragged, target) ? "same" : ""}`,
          on: {
            dragover: (event) => hover(event, target),
            dragleave: () => hover(null, null),
            drop: (event) => dropped(event, target),
          },
        },
        target === "front" ? icon("front") : null,
        text,
      ),
    ),
  );
}

/** What a dragged job becomes that is dropped on the row of this one: first in the queue, or as urgent as it. */
function targetAt(job) {
  const first = state.list.ids?.map((id) => state.jobs.get(id)).find((one) => one?.status === "queued");
  return mayBeFirst(dragged) && (job.id === first?.id || job.moved_to_front_at) ? "front" : job.priority;
}

/** Returns the handlers with which the row of a job that waits takes a dragged one; none while nothing is dragged over it. */
export function droppable(job) {
  if (!dragged || dragged.id === job.id || !isMovable(job)) return {};
  const target = targetAt(job);
  return {
    dragover: (event) => hover(event, target, job.id),
    dragleave: () => hover(null, null),
    drop: (event) => dropped(event, target),
  };
}

/** The class of the row of this job: whether a dragged one is over it, and whether dropping it there changes nothing. */
export const under = (job) => (dragged === null || row !== job.id ? "" : stays(dragged, over) ? "under refuses" : "under");

function hover(event, target, id = null) {
  event?.preventDefault();
  if (over === target && row === id) return;
  over = target;
  row = id;
  changed();
}

function dropped(event, target) {
  event.preventDefault();
  const job = dragged;
  dragged = over = row = null;
  changed();
  if (job && stays(job, target)) showMessage(`Its priority is ${target} already. Jobs of one priority start in the order in which they came: raise the priority, or drop the job on the first one of the queue.`);
  else if (job) move(job, target, isAtFront(job) && may("admin"));
}

/** Alt and an arrow key raise or lower the priority, Alt+Home moves the job to the front, and Alt with the arrow down back. */
export function moveByKey(event, job) {
  if (!event.altKey || !isMovable(job)) return;
  const place = PRIORITIES.indexOf(job.priority);
  const down = isAtFront(job) && may("admin") ? "back" : PRIORITIES[place + 1];
  const target = { ArrowUp: PRIORITIES[place - 1], ArrowDown: down, Home: mayBeFirst(job) ? "front" : undefined }[event.key];
  if (!["ArrowUp", "ArrowDown", "Home"].includes(event.key)) return;
  event.preventDefault();
  if (target) move(job, target).then(() => afterDrawing(() => document.activeElement.closest("tr")?.scrollIntoView({ block: "nearest" })));
}

/** Moves the job to the front, back to its place, or to a priority: `fromFront` if it leaves the front for that. */
export function move(job, target, fromFront = false) {
  if (job.priority === target && !fromFront) return Promise.resolve(true);
  const title = titleOf(job).slice(0, 60);
  const path = `/api/v1/jobs/${job.id}`;
  const now = () => state.jobs.get(job.id) ?? job;
  return attempt(async () => {
    let moved = job;
    if (target === "front") moved = await post(`${path}/move-to-front`);
    if (target === "back" || fromFront) moved = await remove(`${path}/move-to-front`);
    if (PRIORITIES.includes(target) && moved.priority !== target) moved = await patch(path, { priority: target });
    mergeJobs([moved]);
    await load.jobs().catch(() => {}); // the feed reports an unreachable server
    if (target === "back") return `Back to its place: ${title}`;
    const undo = (before) => [{ text: "Undo", act: () => move(now(), before) }];
    if (target === "front") showMessage(`Moved to the front: ${title}`, "good", { actions: isAtFront(job) ? [] : undo("back") });
    else showMessage(`Priority ${target}: ${title}${isAtFront(moved) ? ". It stays at the front" : ""}`, "good", { actions: fromFront ? undo("front") : undo(job.priority) });
    return null;
  }, null, { not: `Not moved: ${title}`, again: () => move(now(), target, fromFront) });
}
