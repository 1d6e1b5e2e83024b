// The view of open alerts, who acknowledged them, and resolved ones.

import { post } from "../base/api.js";
import { awaited, none } from "../base/awaited.js";
import { attempt } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { ago, moment } from "../base/format.js";
import { badge } from "../base/parts.js";
import { changed, mergeAlert, state } from "../base/state.js";

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
    h(
      "section",
      { "aria-labelledby": "h-open" },
      h("h2", { id: "h-open" }, "Open"),
      awaited("alerts", "alerts"),
      open.length ? h("ul", { class: "alerts" }, open.map(openAlert)) : state.loaded.has("alerts") ? none("alerts", "No open alerts.") : null,
    ),
    h(
      "section",
      { "aria-labelledby": "h-history" },
      h("h2", { id: "h-history" }, "History"),
      awaited("resolved", "history"),
      state.resolved?.length
        ? h("ul", { class: "alerts past" }, state.resolved.slice(0, HISTORY).map(pastAlert))
        : state.resolved
          ? none("resolved", "No resolved alerts yet.")
          : null,
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
          h("b", null, alert.action_required ? "Action required: " : "Suggestion: "),
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
            `Acknowledged${alert.acknowledged_by ? ` by ${alert.acknowledged_by}` : ""}, ${ago(alert.acknowledged_at)}`,
          )
        : h(
            "form",
            { class: "row wrap", on: { submit: (event) => acknowledge(event, alert) } },
            h(
              "label",
              { class: "inline" },
              "Your name ",
              h("input", { name: "name", autocomplete: "name", maxlength: 64, placeholder: "optional", value: remembered(), on: { change: remember } }),
            ),
            h("button", { class: "button", "aria-label": `Acknowledge: ${alert.title}` }, "Acknowledge"),
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
      alert.acknowledged_by ? ` · acknowledged by ${alert.acknowledged_by}` : "",
    ),
  );
}

function acknowledge(event, alert) {
  event.preventDefault();
  const by = event.target.elements.name.value.trim();
  return attempt(async () => {
    mergeAlert(await post(`/api/v1/dashboard/alerts/${alert.id}/acknowledge`, by ? { by } : undefined));
    changed();
  }, "Acknowledged", { ofForm: true, not: "Not acknowledged" });
}

function remembered() {
  try {
    return localStorage.getItem(NAME) ?? "";
  } catch {
    return ""; // storage is unavailable
  }
}

function remember(event) {
  try {
    localStorage.setItem(NAME, event.target.value.trim());
  } catch {
    // Storage is unavailable: the name stays in the field only.
  }
}
