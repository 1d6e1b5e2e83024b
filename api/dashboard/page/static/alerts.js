// What is wrong, who takes care of it, and what was wrong before.

import { post } from "./api.js";
import { attempt } from "./dialogs.js";
import { h } from "./dom.js";
import { ago, moment } from "./format.js";
import { badge, empty, note } from "./parts.js";
import { changed, learnAlert, state } from "./state.js";

const NAME = "wanworks.name";
const RANK = { critical: 0, warning: 1, info: 2 };
const HISTORY = 50;

export function alerts() {
  const open = [...state.alerts.values()].sort(
    (a, b) =>
      Number(a.acknowledged) - Number(b.acknowledged) ||
      RANK[a.severity] - RANK[b.severity] ||
      (a.timestamp < b.timestamp ? 1 : -1),
  );
  return [
    note(state.notes.alerts && `The alerts cannot be read: ${state.notes.alerts}`, "bad"),
    h(
      "section",
      { "aria-labelledby": "h-open" },
      h(
        "div",
        { class: "row between wrap" },
        h("h2", { id: "h-open" }, "Open"),
        h(
          "label",
          { class: "inline" },
          "You are ",
          h("input", {
            id: "alert-name",
            name: "name",
            autocomplete: "name",
            maxlength: 64,
            placeholder: "your name",
            value: remembered(),
            on: { change: remember },
          }),
        ),
      ),
      open.length
        ? h("ul", { class: "alerts" }, open.map(openAlert))
        : state.notes.alerts
          ? null
          : empty("Nothing is wrong."),
    ),
    h(
      "section",
      { "aria-labelledby": "h-history" },
      h("h2", { id: "h-history" }, "History"),
      note(state.notes.resolved && `The history cannot be read: ${state.notes.resolved}`, "bad"),
      state.resolved?.length
        ? h("ul", { class: "alerts past" }, state.resolved.slice(0, HISTORY).map(pastAlert))
        : empty("No alert has been resolved yet."),
    ),
  ];
}

function openAlert(alert) {
  return h(
    "li",
    { key: alert.id, class: `panel alert ${alert.severity}`, "data-alert": alert.id },
    h(
      "div",
      { class: "row between wrap" },
      h("div", { class: "row wrap" }, badge(alert.severity), h("h3", null, alert.title)),
      h("span", { class: "muted small", title: moment(alert.timestamp) }, `opened ${ago(alert.timestamp)}`),
    ),
    h("p", null, alert.message),
    alert.suggested_action
      ? h(
          "p",
          { class: "suggestion" },
          h("b", null, alert.action_required ? "To do: " : "Perhaps: "),
          alert.suggested_action,
        )
      : null,
    h(
      "div",
      { class: "row between wrap" },
      h(
        "span",
        { class: "small muted" },
        [alert.model_id, alert.subject !== alert.model_id ? alert.subject : null].filter(Boolean).join(" · "),
      ),
      alert.acknowledged
        ? h(
            "span",
            { class: "small acknowledged" },
            `${alert.acknowledged_by ?? "Somebody"} takes care, ${ago(alert.acknowledged_at)}`,
          )
        : h(
            "button",
            {
              type: "button",
              class: "button",
              "aria-label": `Acknowledge: ${alert.title}`,
              on: { click: () => acknowledge(alert) },
            },
            "Acknowledge",
          ),
    ),
  );
}

function pastAlert(alert) {
  return h(
    "li",
    { key: alert.id },
    h("div", { class: "row wrap" }, badge(alert.severity), h("strong", null, alert.title)),
    h("p", { class: "small" }, alert.message),
    h(
      "p",
      { class: "muted small" },
      `${moment(alert.timestamp)} to ${moment(alert.resolved_at)}`,
      alert.acknowledged_by ? ` · ${alert.acknowledged_by} took care` : "",
    ),
  );
}

function acknowledge(alert) {
  const by = document.getElementById("alert-name")?.value.trim();
  return attempt(async () => {
    learnAlert(await post(`/api/v1/dashboard/alerts/${alert.id}/acknowledge`, by ? { by } : undefined));
    changed();
  }, "Acknowledged");
}

function remembered() {
  try {
    return localStorage.getItem(NAME) ?? "";
  } catch {
    return ""; // storage is closed to us
  }
}

function remember(event) {
  try {
    localStorage.setItem(NAME, event.target.value.trim());
  } catch {
    // storage is closed to us: the name stays in the field
  }
}
