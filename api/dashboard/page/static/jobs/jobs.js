// The list of jobs: what runs, then the queue in its order, then what has ended; with filters, search and pages.

import { awaited, later } from "../base/awaited.js";
import { button, loading, note, nothing, select } from "../base/parts.js";
import { h } from "../base/dom.js";
import { number, plural } from "../base/format.js";
import { changed, state } from "../base/state.js";
import { isFiltered, orderOf, SIZES, write } from "../base/list_address.js";
import { batches } from "./batches.js";
import { filters } from "./filters.js";
import { goTo, show } from "./going.js";
import { dropZones } from "./moving.js";
import { queueHeld } from "../overview/pauses.js";
import { table } from "./rows.js";
import { isSelected, selectAll, selectedActions } from "./selection.js";

export function jobs() {
  const { filters: chosen, after, ids, next } = state.list;
  const rows = (ids ?? []).map((id) => state.jobs.get(id)).filter(Boolean);
  return [
    filters(),
    batches(),
    awaited("jobs", "jobs", ids !== null),
    ids && !rows.length && !state.notes.jobs ? nobody(chosen) : null,
    rows.length ? summary(rows) : null,
    dropZones(),
    rows.length ? table(rows) : null,
    rows.length && (after.length || next) ? pager(after, next) : null,
    selectedActions(),
  ];
}

function nobody(chosen) {
  const { lookedAt, next, after, misfit } = state.list;
  if (misfit)
    return h("div", { key: "misfit" }, h("p", { class: "note warn", role: "status" }, misfit, " ", h("a", { href: "#jobs" }, "Show all jobs")));
  const back = after.length ? button("Back", () => goTo(after.slice(0, -1)), { key: "back" }) : null;
  if (chosen.search && next)
    return h(
      "div",
      { class: "row wrap", key: "none" },
      h("p", { class: "muted", role: "status" }, `Nothing found among ${which()} ${number(lookedAt)} jobs.`),
      button("Look further", () => goTo([...after, next]), { key: "further" }),
      back,
    );
  if (!isFiltered(chosen) && !back)
    return nothing("film", "No jobs yet.", h("a", { class: "button primary", href: "#new" }, "Create a video"));
  return h(
    "div",
    { class: "row wrap", key: "none" },
    h("p", { class: "muted", role: "status" }, after.length ? "No more jobs match. " : "No job matches these filters. ", h("a", { href: "#jobs" }, "Show all jobs")),
    back,
  );
}

/** What is listed, whether it is held, and what can be done to all that match: one line, so that a pause moves no row. */
function summary(rows) {
  return h("div", { class: "list-summary", key: "summary" }, h("p", { class: "muted", role: "status" }, countText(rows), further()), queueHeld(), selectShown(rows), bulkActions());
}

/** Selects the whole page where the rows are cards, without a head that has the box for it. */
function selectShown(rows) {
  const isAll = rows.every((job) => isSelected(job.id));
  return button(isAll ? "Select none" : `Select all ${number(rows.length)}`, () => selectAll(rows, !isAll), { key: "select-all", kind: "quiet of-cards" });
}

const bulk = later(() => import("./bulk.js"));
let isOpen = false; // whether the menu of what is done to all is

/** What can be done to every job that matches, on all pages of the list. */
function bulkActions() {
  // The server acts on filters, not on words.
  if (state.list.filters.search) return h("p", { class: "small muted bulk", key: "bulk" }, "Acting on all that match works with filters, not with a search.");
  return h(
    "details",
    { class: "menu bulk", key: "bulk", on: { toggle: turned } },
    h("summary", { class: "button" }, "Act on all that match"),
    h(
      "div",
      { class: "menu-body", role: "group", "aria-label": "All jobs that match" },
      bulk()?.actions(isOpen) ?? note(bulk.failed, "bad") ?? loading(),
    ),
  );
}

function turned(event) {
  isOpen = event.target.open;
  bulk()?.countAgain();
  changed();
}

const HAVE_ENDED = ["succeeded", "failed", "cancelled"]; // they have no order in the queue

const ORDERED = { queue: "running first, then in the order of the queue", newest: "newest first", oldest: "oldest first" };

function countText(rows) {
  const { total, lookedAt, filters: chosen, order } = state.list;
  const how = ORDERED[orderOf({ filters: chosen, order })];
  if (chosen.search) return `${number(rows.length)} found among ${which()} ${plural(lookedAt, "job")}`;
  if (!total) return how;
  if (HAVE_ENDED.includes(chosen.status) && orderOf({ filters: chosen, order }) === "queue") return `${total.is_exact ? "" : "more than "}${plural(total.count, "job")}`;
  return `${total.is_exact ? "" : "more than "}${plural(total.count, "job")}, ${how}`;
}

/** Which jobs a page of a search has looked at. */
const which = () => (state.list.after.length ? "the next" : `the ${orderOf(state.list)}`);

function further() {
  const { filters: chosen, next, after } = state.list;
  return chosen.search && next ? [" · ", h("a", { href: `#${write({ ...state.list, after: [...after, next] })}` }, "Look further")] : null;
}

function pager(after, next) {
  return h(
    "nav",
    { class: "row pager wrap", "aria-label": "Pages", key: "pager" },
    button("First", () => goTo([]), { kind: "quiet", disabled: !after.length }),
    button("Previous", () => goTo(after.slice(0, -1)), { disabled: !after.length }),
    h("span", { class: "muted small" }, `page ${after.length + 1}${pagesText()}`),
    button("Next", () => goTo([...after, next]), { disabled: !next }),
    select("Per page", "size", SIZES.map(String), {
      key: `size:${state.list.size}`,
      value: String(state.list.size),
      change: (event) => show({ size: Number(event.target.value) }),
    }),
  );
}

function pagesText() {
  const { total, size } = state.list;
  return total?.is_exact ? ` of ${number(Math.max(1, Math.ceil(total.count / size)))}` : "";
}

