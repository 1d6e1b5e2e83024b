// The last lines of a log, loaded when they are opened. For administrators.

import { get } from "./api.js";
import { h } from "./dom.js";
import { stamp } from "./format.js";
import { button, note } from "./parts.js";
import { afterDrawing } from "./state.js";

const read = new Map(); // by path: what was loaded last

/** Returns a part that opens to the log at this path. `nothing`: what it says without lines; `ofOne`: all are of one process. */
export function lastLines(path, nothing, label = "Last lines of the log", { ofOne = false } = {}) {
  const { found = null, problem = null } = read.get(path) ?? {};
  return h(
    "details",
    { key: "log", class: "log", on: { toggle: (event) => event.target.open && load(path, event.target) } },
    h("summary", null, label),
    note(problem, "bad"),
    found?.unanswered?.length ? note(`No answer from ${found.unanswered.join(", ")}: its lines are missing.`, "warn") : null,
    found
      ? found.lines.length
        ? h("pre", { tabindex: "0", "aria-label": "Log" }, found.lines.map((line) => text(line, ofOne)).join("\n"))
        : h("p", { class: "muted small" }, nothing)
      : problem
        ? null
        : h("p", { class: "muted small" }, "Loading…"),
    found || problem ? button("Read again", (event) => load(path, event.target.closest("details")), { kind: "quiet" }) : null,
  );
}

const text = ({ time, level, process, message }, ofOne) =>
  [stamp(time), level === "INFO" ? "" : level, ofOne ? "" : `${process}:`, message].filter(Boolean).join(" ");

/** Loads a log and shows its end, where the newest lines are. */
async function load(path, place) {
  try {
    read.set(path, { found: await get(path) });
  } catch (error) {
    read.set(path, { found: read.get(path)?.found, problem: error.message });
  }
  afterDrawing(() => {
    const lines = place.querySelector("pre");
    if (lines) lines.scrollTop = lines.scrollHeight;
  });
}
