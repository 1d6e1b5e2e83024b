// Helps to choose a model: compares two by their measurements, or recommends one for a described use.

import { get } from "../base/api.js";
import { h } from "../base/dom.js";
import { gigabytes, megabytes, NONE, number, percent, seconds, sentence } from "../base/format.js";
import { note, score, select } from "../base/parts.js";
import { changed, state } from "../base/state.js";

let pair = null; // {a, b, comparison, performance: {id: body}}
let pairProblem = null;
let advice = null;
let adviceProblem = null;
const CLOSE = 0.05; // of a score of 1

export function compare() {
  const ids = state.catalogue.map((entry) => entry.model_id);
  return h(
    "section",
    { class: "panel", "aria-labelledby": "h-compare" },
    h("h2", { id: "h-compare" }, "Compare"),
    h(
      "form",
      { class: "filters", "aria-label": "Compare", on: { submit: comparePair } },
      select("First model", "a", ids, { value: ids[0] }),
      select("Second model", "b", ids, { value: ids[1] ?? ids[0] }),
      h("button", { class: "button" }, "Compare"),
    ),
    note(pairProblem, "bad"),
    pair ? comparison(pair) : null,
  );
}

async function comparePair(event) {
  event.preventDefault();
  const form = new FormData(event.target);
  const [a, b] = [form.get("a"), form.get("b")].map(String);
  const of = (id) => encodeURIComponent(id);
  try {
    const [found, ...performance] = await Promise.all([
      get(`/api/v1/wan-models/compare/${of(a)}/${of(b)}`),
      get(`/api/v1/wan-models/performance/${of(a)}`),
      get(`/api/v1/wan-models/performance/${of(b)}`),
    ]);
    pair = { a, b, found, performance };
    pairProblem = null;
  } catch (error) {
    pair = null;
    pairProblem = error.message;
  }
  changed();
}

const ROWS = [
  ["Average time of its jobs", "generation_time_avg_seconds", seconds],
  ["95th percentile", "generation_time_p95_seconds", seconds],
  ["Videos per hour, one after the other on one device", "throughput_videos_per_hour", (value) => number(value, 1)],
  ["Quality, of 1", "quality_score", score],
  ["Stability, of 1: success rate, less for uneven times", "stability_score", score],
  ["Memory efficiency, of 1: share of memory free at the peak", "memory_efficiency_score", score],
  ["Peak memory", "memory_peak_mb", megabytes],
  ["Utilisation", "gpu_utilization_avg_percent", percent],
  ["Power", "power_consumption_watts", (value) => (value == null ? NONE : `${number(value)}\u00a0W`)],
  ["Measured jobs", "samples", number],
];

function comparison({ a, b, found, performance }) {
  const plain = (text) => text.replace(/\.$/, "");
  const rest = (found.trade_offs ?? []).filter((text) => !plain(found.recommendation ?? "").includes(plain(text)));
  return h(
    "div",
    { class: "answer" },
    h(
      "div",
      { class: "sideways", tabindex: "0", role: "region", "aria-label": `${a} and ${b} side by side` },
      h(
        "table",
        { class: "figures" },
        h("caption", { class: "hidden" }, `${a} and ${b}, measured`),
        h("thead", null, h("tr", null, h("td"), h("th", { scope: "col" }, a), h("th", { scope: "col" }, b))),
        h(
          "tbody",
          null,
          ROWS.map(([label, name, format]) =>
            h(
              "tr",
              { key: name },
              h("th", { scope: "row" }, label),
              performance.map((one, index) => h("td", { key: index }, format(one[name]))),
            ),
          ),
        ),
      ),
    ),
    h("p", { class: "hint" }, `Average times are of the jobs that each model has run here, whatever their sizes.${found.speed_difference_percent === null ? "" : " Which one is faster is judged by the same size, frames and steps."}`),
    found.recommendation ? h("p", null, h("b", null, found.recommendation)) : null,
    h(
      "dl",
      { class: "uses" },
      Object.entries(found.use_cases ?? {}).map(([id, text]) => [
        h("dt", { key: `t${id}` }, id),
        h("dd", { key: `d${id}` }, text),
      ]),
    ),
    rest.length
      ? h(
          "ul",
          { class: "spelled" },
          rest.map((text) => h("li", { key: text }, text)),
        )
      : null,
  );
}

export function recommend() {
  return h(
    "section",
    { class: "panel", "aria-labelledby": "h-recommend" },
    h("h2", { id: "h-recommend" }, "Recommend a model"),
    h(
      "form",
      { class: "filters", "aria-label": "Recommendation", on: { submit: requestAdvice } },
      h(
        "label",
        { class: "field grow" },
        h("span", null, "Use case"),
        h("input", { name: "use_case", required: true, maxlength: 500, placeholder: "animate a product photo" }),
      ),
      select("Quality", "quality_priority", ["low", "medium", "high"], { value: "medium" }),
      select("Speed", "speed_priority", ["slow", "medium", "fast"], { value: "medium" }),
      h(
        "label",
        { class: "field" },
        h("span", null, "Memory, GB"),
        h("input", { type: "number", name: "memory_constraint_gb", min: 0, step: "any", placeholder: "any" }),
      ),
      h("button", { class: "button" }, "Recommend"),
    ),
    note(adviceProblem, "bad"),
    advice ? recommendation(advice) : null,
  );
}

async function requestAdvice(event) {
  event.preventDefault();
  try {
    advice = await get("/api/v1/wan-models/recommend", Object.fromEntries(new FormData(event.target)));
    adviceProblem = null;
  } catch (error) {
    advice = null;
    adviceProblem = error.errors?.map((one) => `${sentence(one.field)}: ${one.message}`).join(" ") || error.message;
  }
  changed();
}

/** Says in words how far it leads, and whether all of it was measured. */
function sureness(found) {
  const [[, best], [id, next] = []] = Object.entries(found.scores);
  if (next && best.score - next.score < CLOSE) return `Close: ${id} is nearly as good.`;
  if (Object.values(found.basis).includes("catalogue")) return "A likely choice: not all of it was measured here.";
  return found.confidence_score >= 0.66 ? "A clear choice." : "A likely choice.";
}

function recommendation(found) {
  const id = found.recommended_model;
  const [why, ...more] = found.reasoning ?? [];
  if (!id) return h("div", { class: "answer", "aria-live": "polite" }, h("h3", null, "No model fits"), spelled(found.reasoning ?? []));
  const { generation_time_seconds: each, quality_score: quality } = found.expected_performance;
  const rest = found.alternative_models ?? [];
  return h(
    "div",
    { class: "answer", "aria-live": "polite" },
    h("h3", null, id),
    h("p", null, `${why.replace(`${id}: `, "")}. ${sureness(found)}`),
    h(
      "p",
      { class: "muted" },
      [
        each == null ? null : `About ${seconds(each)} per video`,
        quality == null ? null : `quality ${score(quality)} of 1`,
        `needs ${gigabytes(found.hardware_requirements.min_vram_gb)} of device memory or more`,
      ]
        .filter(Boolean)
        .join(" · "),
    ),
    spelled(found.limitations ?? []),
    h("div", { class: "row wrap" }, h("a", { class: "button primary", href: `#new?model=${encodeURIComponent(id)}` }, `Create a video with ${id}`)),
    rest.length ? h("p", { class: "muted" }, `Others, the next best first: ${rest.join(", ")}`) : null,
    h("details", null, h("summary", null, "Details"), spelled(more)),
  );
}

const spelled = (texts) => (texts.length ? h("ul", { class: "spelled" }, texts.map((text) => h("li", { key: text }, text))) : null);
