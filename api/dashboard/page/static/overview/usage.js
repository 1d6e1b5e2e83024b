// The device time of keys in this month, for administrators.

import { base } from "../base/api.js";
import { awaited } from "../base/awaited.js";
import { h } from "../base/dom.js";
import { number, seconds } from "../base/format.js";
import { state } from "../base/state.js";

export const isAdmin = () => document.body.dataset.scopes.includes("admin");

/** Shows who has used the devices this month; nothing without the scope `admin`. */
export function usage() {
  if (!isAdmin()) return null;
  const found = state.usage;
  return h(
    "section",
    { class: "panel", "aria-labelledby": "h-usage" },
    h("h2", { id: "h-usage" }, "Device time this month"),
    awaited("usage", "usage", found),
    found && !found.data.length && !state.notes.usage ? h("p", null, "No generation has ended this month.") : null,
    found?.data.length ? table(found.data) : null,
    h("p", null, h("a", { href: `${base}/api/v1/usage?format=csv` }, "Download by day as CSV")),
  );
}

function table(rows) {
  const sorted = [...rows].sort((one, other) => other.gpu_seconds - one.gpu_seconds);
  return h(
    "div",
    { class: "sideways", tabindex: "0", role: "region", "aria-label": "Device time by key and model" },
    h(
    "table",
    { class: "figures first-two" },
    h("thead", null, h("tr", null, ["Key", "Model", "Jobs", "Failed", "Device time"].map((name) => h("th", { key: name, scope: "col" }, name)))),
    h(
      "tbody",
      null,
      sorted.map((row) =>
        h(
          "tr",
          { key: `${row.key_id} ${row.model_id}` },
          h("td", null, row.key ?? "without a key"),
          h("td", null, row.model_id),
          h("td", null, number(row.jobs)),
          h("td", null, number(row.failed)),
          h("td", null, seconds(row.gpu_seconds)),
        ),
      ),
    ),
    ),
  );
}
