// Actions on all jobs that match the filters of the list. The server counts first how many of them would change.

import { newKey, post } from "../base/api.js";
import { attempt, choose, confirm, showMessage } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { number, plural, words } from "../base/format.js";
import * as load from "../base/load.js";
import { button, note } from "../base/parts.js";
import { changed, state } from "../base/state.js";
import { deletion } from "../job/actions.js";
import { asked } from "../base/list_address.js";

const ACTIONS = {
  cancel: { button: "Cancel all", verb: "Cancel", no: "Keep them", done: "cancelled" },
  retry: { button: "Retry all", verb: "Retry", no: "Cancel", done: "retried", kind: "primary" },
  delete: { button: "Delete all", done: "deleted" },
  set_priority: { verb: "Change the priority of", no: "Cancel", done: "changed", kind: "primary" },
};
// Why the other jobs that match are left out: of one job, of several.
const REASONS = {
  cancel: ["has ended and stays", "have ended and stay"],
  retry: ["is left out: it has not failed, or was retried already", "are left out: they have not failed, or were retried already"],
  delete: ["stays, because a flow needs it", "stay, because flows need them"],
  set_priority: ["is left out: it runs, has ended, or has that priority", "are left out: they run, have ended, or have that priority"],
};
const COUNTED = ["cancel", "retry", "delete"];
const PRIORITIES = ["critical", "high", "normal", "low"];
const COUNT_AGAIN_MS = 5_000;

// How many jobs each action would change, under which filters, and when that was asked.
const own = { of: null, fit: {}, problem: null, at: 0 };

/** Returns what can be done to every job that matches, with how many it would change, counted while the menu is open. */
export function actions(isOpen) {
  if (isOpen) countSoon();
  return [
    note(own.problem && `The jobs could not be counted: ${own.problem}`, "bad"),
    ["cancel", "retry"].map(action),
    // What can be moved in the queue could be cancelled too.
    button("Priority of all…", choosePriority, { key: "priority", kind: "steer", disabled: own.fit.cancel === 0 && "No job that matches waits in the queue" }),
    action("delete"),
  ];
}

async function choosePriority() {
  const priority = await choose("Priority of all that match", PRIORITIES.map((one) => [one, one]));
  if (priority) start("set_priority", priority);
}

function action(name) {
  const fit = own.fit[name];
  return h(
    "button",
    {
      key: name,
      type: "button",
      class: `button steer ${name === "delete" ? "danger" : ""}`,
      disabled: fit === 0,
      title: fit === 0 ? `No job that matches can be ${ACTIONS[name].done}` : undefined,
      on: { click: () => start(name) },
    },
    ACTIONS[name].button,
    fit === undefined ? null : h("span", { class: "muted" }, number(fit)),
  );
}

/** Counts when the menu is drawn next. */
export function countAgain() {
  own.at = 0;
}

const filterNow = () => {
  const given = Object.values(state.list.filters).some(Boolean);
  return given ? asked(state.list.filters) : { all: true };
};

/** Counts while the actions are shown: under other filters at once, else every few seconds. */
async function countSoon() {
  const filter = filterNow();
  const of = JSON.stringify(filter);
  if (own.of === of && Date.now() - own.at < COUNT_AGAIN_MS) return;
  if (own.of !== of) own.fit = {};
  Object.assign(own, { of, at: Date.now() });
  try {
    const answers = await Promise.all(COUNTED.map((name) => post("/api/v1/jobs/bulk", { action: name, filter, dry_run: true })));
    if (own.of !== of) return;
    own.fit = Object.fromEntries(COUNTED.map((name, place) => [name, answers[place].would_change]));
    own.problem = null;
  } catch (error) {
    own.problem = error.message;
  }
  changed();
}

async function start(name, priority) {
  const given = Object.entries(state.list.filters).filter(([, value]) => value);
  const body = { action: name, filter: filterNow(), ...(priority ? { priority } : {}) };
  const { verb, done, no, kind } = ACTIONS[name];
  await attempt(async () => {
    const { matched, would_change: fit } = await post("/api/v1/jobs/bulk", { ...body, dry_run: true });
    if (!fit) {
      showMessage(matched ? `None of the ${plural(matched, "job")} can be ${done}.` : "No job matches.");
      return null;
    }
    const rest = matched - fit;
    const stay = rest ? `${number(rest)} ${rest === 1 ? REASONS[name][0] : REASONS[name][1]}.` : "";
    const lines = given.length ? given.map(([of, value]) => `${words(of)}: ${value}`) : ["Every job, without a filter"];
    const yes = `${verb} ${plural(fit, "job")}`;
    const asked = name === "delete" ? deletion(fit) : { title: `${yes}?`, yes, no: fit === 1 ? no.replace("them", "it") : no, kind };
    const text = [stay, asked.text].filter(Boolean).join(" ");
    const typed = name === "delete" && !given.length ? "delete" : null;
    if (!(await confirm({ ...asked, text, lines, typed }))) return null;
    const result = await post("/api/v1/jobs/bulk", body, { key: newKey(), timeout: 60_000 });
    own.at = 0;
    load.jobs().catch(() => {}); // the feed reports an unreachable server
    if (result.job_id) {
      location.hash = `job/${result.job_id}`;
      return `${plural(fit, "job")}: a job of its own carries it out.`;
    }
    const left = Object.entries(result.skipped).map(([reason, count]) => `${number(count)} ${words(reason)}`);
    const outcome = `${plural(result.changed, "job")} ${done}${left.length ? `; left out: ${left.join(", ")}` : ""}`;
    if (result.changed) return outcome;
    showMessage(outcome);
    return null;
  }, null, { not: `The jobs are not ${done}` });
}
