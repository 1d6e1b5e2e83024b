// The filters, the search and the order of the list of jobs. Their values are in the address.

import { h, icon } from "../base/dom.js";
import { folded } from "../base/folding.js";
import { words } from "../base/format.js";
import { select } from "../base/parts.js";
import { state } from "../base/state.js";
import { isFiltered, orderOf, STATES, TYPES } from "../base/list_address.js";
import { show } from "./going.js";

const PAUSE_MS = 400;

let typing = null;

export function filters() {
  const { filters: chosen, order } = state.list;
  return h(
    "form",
    { class: "filters job-filters", "aria-label": "Filters", role: "search", on: { submit: searchNow } },
    h(
      "label",
      { class: "field grow search", key: "search" },
      h("span", null, "Search"),
      icon("search"),
      h("input", {
        type: "search",
        name: "search",
        own: (field) => {
          if (document.activeElement !== field && field.value !== chosen.search) field.value = chosen.search;
        },
        maxlength: 200,
        placeholder: "Prompt or id",
        autocomplete: "off",
        on: { input: searchSoon },
      }),
    ),
    folded("jobs", Object.entries(chosen).filter(([name, value]) => value && name !== "search").length, [
      one("Status", "status", STATES, chosen),
      one("Type", "type", TYPES, chosen),
      one("Model", "model_id", state.catalogue.map((entry) => entry.model_id), chosen, (text) => text),
      day("From", "from", chosen),
      day("To", "to", chosen),
      select(
        "Order",
        "order",
        [
          // What has no place in the queue cannot be listed by it.
          orderOf({ filters: chosen, order: "queue" }) === "queue" ? ["queue", "queue order"] : null,
          ["newest", "newest first"],
          ["oldest", "oldest first"],
        ].filter(Boolean),
        { key: `order:${orderOf({ filters: chosen, order })}`, value: orderOf({ filters: chosen, order }), change: (event) => show({ order: event.target.value }) },
      ),
    ]),
    isFiltered(chosen) ? h("a", { class: "button quiet", href: "#jobs", key: "clear" }, "Clear") : null,
  );
}

function one(label, name, options, chosen, text = words) {
  return select(label, name, [["", "any"], ...options.map((each) => [each, text(each)])], {
    key: `${name}:${chosen[name]}`,
    value: chosen[name],
    change: (event) => filter(name, event.target.value),
  });
}

function day(label, name, chosen) {
  return h(
    "label",
    { class: "field", key: `${name}:${chosen[name]}` },
    h("span", null, label),
    h("input", { type: "date", name, value: chosen[name], on: { change: (event) => filter(name, event.target.value) } }),
  );
}

const filter = (name, value) => show({ filters: { ...state.list.filters, [name]: value } });

function searchSoon(event) {
  clearTimeout(typing);
  const field = event.target;
  typing = setTimeout(() => filter("search", field.value.trim()), PAUSE_MS);
}

function searchNow(event) {
  event.preventDefault();
  clearTimeout(typing);
  filter("search", event.target.elements.search.value.trim());
}
