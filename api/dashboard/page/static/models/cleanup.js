// Frees disk space: first shows what would be removed, by name and size; only what was shown can then be removed.

import { newKey, post } from "../base/api.js";
import { attempt, confirm, showMessage } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { ago, gigabytes, NONE, plural, words } from "../base/format.js";
import * as load from "../base/load.js";
import { button, empty, fact, facts, note } from "../base/parts.js";
import { changed, state } from "../base/state.js";

const TIMEOUT_MS = 45_000; // the server waits 30 s for the nodes

let request = null; // the request that the shown plan answers
let plan = null;
let done = null;
let problem = null;
let busy = false;

export function cleanup() {
  const nodes = (state.workers?.nodes ?? []).filter((node) => node.state === "online").map((node) => node.name);
  return h(
    "section",
    { class: "panel cleanup", "aria-labelledby": "h-cleanup" },
    h("h2", { id: "h-cleanup" }, "Clean up"),
    h(
      "p",
      { class: "muted" },
      "Removes unneeded files (old revisions, partial downloads, files of ended jobs), then models not used recently until the target is reached. Pinned and loaded models stay.",
    ),
    h(
      "form",
      { class: "filters", "aria-label": "Cleanup", on: { submit: preview, input: stale } },
      h(
        "label",
        { class: "field" },
        h("span", null, "Target free space, GB"),
        h("input", { type: "number", name: "target", min: 0, step: "any", placeholder: "any" }),
      ),
      h(
        "label",
        { class: "field" },
        h("span", null, "Keep models used in the last (days)"),
        h("input", { type: "number", name: "days", min: 0, max: 36500, step: 1, value: 30, required: true }),
      ),
      nodes.length > 1
        ? h(
            "label",
            { class: "field" },
            h("span", null, "Node"),
            h(
              "select",
              { name: "node" },
              h("option", { value: "" }, "all nodes"),
              nodes.map((name) => h("option", { key: name, value: name }, name)),
            ),
          )
        : null,
      h("button", { class: "button", "aria-disabled": busy ? "true" : undefined }, busy ? "Working…" : "Preview"),
    ),
    note(problem, "bad"),
    plan ? planned(plan.recommendations) : null,
    done ? outcome(done) : null,
  );
}

function planned(found) {
  const actions = found.cleanup_actions;
  return h(
    "div",
    { id: "plan", class: "answer" },
    h("h3", null, actions.length ? `This would free ${gigabytes(sum(actions))}` : "Nothing to remove"),
    facts(
      fact("Free now", found.total_space_available_gb == null ? NONE : gigabytes(found.total_space_available_gb)),
      request?.target_space_gb === undefined ? null : [fact("To free", gigabytes(found.space_to_free_gb)), fact("Target reached", found.reaches_target ? "yes" : "no")],
    ),
    actions.length
      ? h(
          "ul",
          { class: "spelled" },
          actions.map((one, index) => h("li", { key: index }, describe(one))),
        )
      : null,
    found.kept.length
      ? h(
          "details",
          null,
          h("summary", null, `${plural(found.kept.length, "model")} would stay`),
          h(
            "ul",
            { class: "spelled" },
            found.kept.map((one) =>
              h("li", { key: `${one.node}/${one.model_id}` }, `${one.model_id} on ${one.node}: ${one.reason}`),
            ),
          ),
        )
      : null,
    actions.length
      ? h("div", { class: "row" }, button("Clean up now", execute, { kind: "danger", disabled: busy }))
      : null,
  );
}

function outcome(found) {
  return h(
    "div",
    { class: "answer" },
    note(
      `${gigabytes(found.total_space_freed_gb)} freed by ${plural(found.executed_actions.length, "removal")} so far.`,
      "good",
    ),
    found.executed_actions.length
      ? h(
          "ul",
          { class: "spelled" },
          found.executed_actions.map((one, index) => h("li", { key: index }, describe(one))),
        )
      : empty("The cleanup jobs are still running. See the list of jobs."),
  );
}

function describe(one) {
  const used = one.last_used ? `, last used ${ago(one.last_used)}` : "";
  return `${words(one.action_type)}${one.model_id ? ` ${one.model_id}` : ""} on ${one.node}: ${gigabytes(one.space_freed_gb)} (${one.reason}${used})`;
}

const sum = (actions) => actions.reduce((total, one) => total + one.space_freed_gb, 0);

function stale() {
  if (!plan && !done && !problem) return;
  plan = done = problem = null; // the form no longer matches the plan
  changed();
}

async function preview(event) {
  event.preventDefault();
  if (busy) return;
  const form = new FormData(event.target);
  request = { keep_recent_days: Number(form.get("days")) };
  if (form.get("target") !== "") request.target_space_gb = Number(form.get("target"));
  if (form.get("node")) request.node = form.get("node");
  done = problem = null;
  await work(async () => {
    plan = await post("/api/v1/models/cleanup", { ...request, dry_run: true });
  });
  if (plan?.recommendations.cleanup_actions.length) showMessage("The preview is ready.");
}

async function execute() {
  const actions = plan.recommendations.cleanup_actions;
  const yes = await confirm({
    title: `Remove ${plural(actions.length, "item")} (${gigabytes(sum(actions))})?`,
    text: "The nodes check each item again before they remove it. Removed models must be downloaded again before use.",
    lines: actions.map(describe),
    whole: true,
    yes: "Remove",
  });
  if (!yes) return;
  await attempt(() =>
    work(async () => {
      done = await post(
        "/api/v1/models/cleanup",
        { ...request, dry_run: false },
        { key: newKey(), timeout: TIMEOUT_MS },
      );
      plan = null;
      await load.models();
    }),
    null,
    { not: "The cleanup has not begun" },
  );
}

async function work(action) {
  busy = true;
  changed();
  try {
    await action();
  } catch (error) {
    plan = null;
    problem = error.errors?.[0]?.message ?? error.message;
  } finally {
    busy = false;
    changed();
  }
}
