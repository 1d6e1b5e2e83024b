// The selected jobs of the list, and what can be done with them together.

import { newKey, patch, post, remove } from "../base/api.js";
import { attempt, choose, confirm, showMessage } from "../base/dialogs.js";
import { plural } from "../base/format.js";
import * as load from "../base/load.js";
import { button, titleOf } from "../base/parts.js";
import { selectionBar } from "../base/selection_bar.js";
import { changed, hasEnded, mergeJobs, removeJob, state } from "../base/state.js";
import { deletion, noteCancel, sendCancel } from "../job/actions.js";

const PRIORITIES = ["critical", "high", "normal", "low"];
const SHOWN = 10;

const picked = new Set();
let anchor = null; // id of the job that was selected last, where a range begins

/** The selected jobs that the list still shows. */
export const selected = () => (state.list.ids ?? []).filter((id) => picked.has(id) && state.jobs.has(id)).map((id) => state.jobs.get(id));
export const isSelected = (id) => picked.has(id);

/** Selects the job, or not any more; with `range`, all from the one that was selected before. */
export function toggle(id, range = false) {
  const ids = (state.list.ids ?? []).filter((one) => state.jobs.has(one));
  const from = range ? ids.indexOf(anchor) : -1;
  const to = ids.indexOf(id);
  if (from >= 0 && to >= 0) for (const one of ids.slice(Math.min(from, to), Math.max(from, to) + 1)) picked.add(one);
  else if (range || !picked.delete(id)) picked.add(id);
  anchor = id;
  changed();
}

/** With Shift, an arrow key selects the row and the next one, and moves to it. */
export function selectByKey(event, job) {
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (!step || !event.shiftKey || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  const row = event.currentTarget.closest("tr");
  const next = step < 0 ? row.previousElementSibling : row.nextElementSibling;
  if (!next) return;
  if (anchor !== job.id) toggle(job.id, true);
  toggle(next.dataset.job, true);
  next.querySelector(event.currentTarget.matches("input") ? ".pick input" : ".job-link").focus();
}

export function selectAll(rows, on) {
  for (const job of rows) {
    if (on) picked.add(job.id);
    else picked.delete(job.id);
  }
  changed();
}

export function clear() {
  picked.clear();
  anchor = null;
  changed();
}

const CHANGES = {
  cancel: { fits: (job) => !hasEnded(job), send: ({ id }) => sendCancel(id), done: "cancelled", late: "ended before" },
  retry: {
    fits: (job) => job.status === "failed" || job.status === "cancelled",
    send: (job) => post(`/api/v1/jobs/${job.id}/retry`, undefined, { key: newKey() }),
    done: "retried",
  },
  delete: {
    fits: () => true,
    send: async (job) => {
      noteCancel(job.id); // one that runs is cancelled first
      await remove(`/api/v1/jobs/${job.id}`);
      removeJob(job.id);
    },
    done: "deleted",
  },
  front: { fits: (job) => job.status === "queued", send: (job) => post(`/api/v1/jobs/${job.id}/move-to-front`), done: "moved to the front" },
  priority: { fits: (job) => !hasEnded(job) && job.status !== "running" },
};

/** Shows what can be done with the selected jobs; null without any. */
export function selectedActions() {
  const jobs = selected();
  if (!jobs.length) return null;
  const able = (name) => selected().filter(CHANGES[name].fits); // also at the click: a change may not have been drawn yet
  const act = (name, text, kind = "") =>
    button(text, () => start(name, able(name)), {
      key: name,
      kind: `${kind} steer`,
      disabled: !able(name).length && `None of the selected jobs can be ${CHANGES[name].done}`,
    });
  return selectionBar({
    label: "Selected jobs",
    count: jobs.length,
    clear,
    // What fits the selected jobs is seen first where not all has room.
    first: able("cancel").length || !able("retry").length ? act("cancel", "Cancel") : act("retry", "Retry"),
    more: [
      able("cancel").length || !able("retry").length ? act("retry", "Retry") : act("cancel", "Cancel"),
      document.body.dataset.scopes.includes("admin") ? act("front", "Move to the front") : null,
      button("Priority…", () => choosePriority(able), {
        key: "priority",
        kind: "steer",
        disabled: !able("priority").length && "None of the selected jobs waits in the queue",
      }),
    ],
    remove: act("delete", "Delete", "danger"),
  });
}

async function choosePriority(able) {
  const priority = await choose(`Priority of ${plural(able("priority").length, "job")}`, PRIORITIES.map((one) => [one, one]));
  if (priority) await prioritise(able("priority").map((job) => [job, priority]), priority);
}

/** Gives the jobs these priorities, [[job, priority]]. `named`: the one that all get; none: they get their own ones back. */
async function prioritise(wanted, named) {
  const before = [];
  const failed = [];
  for (const [{ id }, priority] of wanted) {
    const job = state.jobs.get(id);
    if (!job || job.priority === priority) continue;
    try {
      mergeJobs([await patch(`/api/v1/jobs/${id}`, { priority })]);
      before.push([job, job.priority]);
    } catch (error) {
      failed.push(error.message);
    }
  }
  load.jobs().catch(() => {}); // the feed reports an unreachable server
  const undo = [{ text: "Undo", act: () => prioritise(before) }];
  if (before.length) showMessage(`${named ? `Priority ${named}` : "Priority as before"}: ${plural(before.length, "job")}`, "good", { actions: named ? undo : [] });
  else if (!failed.length) showMessage(`They have the priority ${named} already.`);
  if (failed.length) showMessage(`The priority of ${plural(failed.length, "job")} was not changed: ${[...new Set(failed)].join("; ")}`, "bad");
}

async function start(name, jobs) {
  const { send, done, late } = CHANGES[name];
  if (!jobs.length) return showMessage(`None of the selected jobs can be ${done}.`); // they have changed meanwhile
  if (name === "delete" || (name === "cancel" && jobs.length > 1)) {
    const lines = jobs.slice(0, SHOWN).map(titleOf);
    if (jobs.length > SHOWN) lines.push(`and ${jobs.length - SHOWN} more`);
    const what = plural(jobs.length, "job");
    const asked = name === "delete" ? deletion(jobs.length) : { title: `Cancel ${what}?`, yes: `Cancel ${what}`, no: "Keep them" };
    if (!(await confirm({ ...asked, lines }))) return null;
  }
  return attempt(async () => {
    const failed = [];
    let count = 0;
    let over = 0;
    // The last one moved to the front is first, so the lowest row is moved first.
    for (const job of name === "front" ? [...jobs].reverse() : jobs) {
      try {
        const answer = await send(job);
        if (answer) mergeJobs([answer]);
        picked.delete(job.id);
        if (late && !answer) over += 1;
        else count += 1;
      } catch (error) {
        failed.push(error.message);
      }
    }
    load.jobs().catch(() => {}); // the feed reports an unreachable server
    if (failed.length) throw new Error(`${count} ${done}, ${failed.length} not: ${[...new Set(failed)].join("; ")}`);
    const outcome = `${plural(count, "job")} ${done}${over ? `, ${plural(over, "job")} ${late}` : ""}`;
    if (count) return outcome;
    showMessage(outcome);
    return null;
  });
}
