// The view of flows: the list, and one flow with its jobs as a tree. Loaded when the view is first opened.

import { base, get, post } from "../base/api.js";
import { awaited, none } from "../base/awaited.js";
import { attempt, confirm, showMessage } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { ago, moment, percent, seconds } from "../base/format.js";
import { badge, bar, button } from "../base/parts.js";
import { part } from "../base/load.js";
import { changed, state } from "../base/state.js";

const PAGE = 25;
const POLL_MS = 2_000;
const ENDS = new Set(["succeeded", "failed", "cancelled"]);
const SHOWN = ["held", "queued", "running", "paused", "succeeded", "failed", "cancelled", "skipped"];
const own = { id: null, flow: null, isMissing: false, rows: null, after: [], next: null };

state.flows = { load };
// The feed has messages about jobs only.
setInterval(() => {
  if (document.documentElement.dataset.view !== "flows" || document.hidden) return;
  if (!own.id || (own.flow && !ENDS.has(own.flow.state))) loadSoon();
}, POLL_MS);

/** Shows one flow, or the list if `id` is null. */
export async function open(id) {
  if (own.id !== id) Object.assign(own, { flow: null, isMissing: false });
  own.id = id;
  changed();
  await loadSoon();
}

/** Loads what is shown, and notes why it could not. The feed reports a lost server. */
const loadSoon = () => part("flows", load).catch(() => {});

/** Loads what is shown. */
async function load() {
  const { id, after } = own;
  if (id) {
    try {
      const flow = await get(`/api/v1/flows/${encodeURIComponent(id)}`);
      if (own.id === id) Object.assign(own, { flow, isMissing: false });
    } catch (error) {
      if (error.status !== 404) throw error;
      if (own.id === id) Object.assign(own, { flow: null, isMissing: true }); // asking again would change nothing
    }
  } else {
    const page = await get("/api/v1/flows", { limit: PAGE, after: after.at(-1) });
    if (own.after === after) Object.assign(own, { rows: page.data, next: page.next });
  }
  changed();
}

export function flows() {
  if (own.id && own.isMissing)
    return h("p", { key: "missing", class: "note", role: "status" }, "No flow has this id. It may have been deleted. ", h("a", { href: "#flows" }, "Show all flows"));
  return own.id ? [awaited("flows", "flow", own.flow !== null), one()] : [awaited("flows", "flows", own.rows !== null), list()];
}

function list() {
  if (own.rows === null) return null;
  if (!own.rows.length && !own.after.length)
    return none(
      "flows",
      "No flows yet. Submit jobs that depend on one another with ",
      h("code", null, "wanworks flow submit"),
      " or ",
      h("code", null, "POST /api/v1/flows"),
      ". See the ",
      h("a", { href: `${base}/docs` }, "API docs"),
      ".",
    );
  return [
    h("p", { key: "about", class: "small muted" }, "A flow is several jobs that start after one another and may use each other's videos. ", h("code", null, "wanworks flow submit"), " and the ", h("a", { href: `${base}/docs` }, "API"), " make them."),
    h("ul", { class: "panel flows", key: "list", "aria-label": "Flows, newest first" }, own.rows.map(line)),
    own.after.length || own.next
      ? h(
          "div",
          { class: "row pager", key: "pager" },
          button("Newer", () => goTo(own.after.slice(0, -1)), { disabled: !own.after.length }),
          button("Older", () => goTo([...own.after, own.next]), { disabled: !own.next }),
        )
      : null,
  ];
}

function goTo(after) {
  own.after = after;
  loadSoon();
  document.getElementById("h-flows").focus({ preventScroll: true });
}

function line(flow) {
  return h(
    "li",
    { key: flow.id },
    badge(flow.state),
    h("a", { href: `#flow/${flow.id}` }, flow.name ?? flow.id),
    ENDS.has(flow.state) ? null : bar(flow.progress_percent, `Progress of ${flow.name ?? flow.id}`),
    h("span", { class: "small muted", title: moment(flow.created_at) }, `${counted(flow.counts)} · ${ago(flow.created_at)}`),
  );
}

const counted = (counts) =>
  SHOWN.filter((name) => counts[name])
    .map((name) => `${counts[name]} ${name}`)
    .join(", ");

function one() {
  const { flow } = own;
  if (!flow) return null;
  return h(
    "section",
    { key: flow.id, class: "panel", "aria-labelledby": "h-flow" },
    h("p", null, h("a", { href: "#flows" }, "All flows")),
    h("h2", { id: "h-flow" }, flow.name ?? flow.id),
    h(
      "p",
      null,
      badge(flow.state),
      ENDS.has(flow.state) ? "" : ` ${percent(flow.progress_percent)}`,
      flow.eta_seconds === null ? "" : ` · about ${seconds(flow.eta_seconds)} left`,
      ` · ${counted(flow.counts)}`,
      flow.retries ? ` · retried ${flow.retries === 1 ? "once" : `${flow.retries} times`}` : "",
    ),
    ENDS.has(flow.state) ? null : bar(flow.progress_percent, `Progress of ${flow.name ?? flow.id}`),
    h("ul", { class: "flow-tree", "aria-label": "Jobs" }, branches(flow.jobs, null)),
    h("div", { class: "row" }, actions(flow)),
  );
}

/** The jobs below the one of that name: each is below the first job that it depends on. */
function branches(jobs, name) {
  return jobs
    .filter((job) => (job.depends_on[0] ?? null) === name)
    .map((job) => {
      const below = branches(jobs, job.name);
      return h("li", { key: job.name }, leaf(job), below.length ? h("ul", null, below) : null);
    });
}

function leaf(job) {
  const also = job.depends_on.slice(1);
  return h(
    "div",
    { class: "flow-job" },
    badge(job.state),
    job.type ? h("a", { href: `#job/${job.id}` }, job.name) : h("span", null, `${job.name} (deleted)`),
    job.model_id ? h("span", { class: "small muted" }, job.model_id) : null,
    job.state === "running" ? bar(job.progress_percent, `Progress of ${job.name}`) : null,
    also.length ? h("span", { class: "small muted" }, `also after ${also.join(", ")}`) : null,
    job.frame_of ? h("span", { class: "small muted" }, `from the ${frame(job.frame_of)}`) : null,
    job.error ? h("span", { class: `small ${job.state === "failed" ? "bad-text" : "muted"}` }, job.error.message) : null,
  );
}

const frame = ({ job, frame: of }) => (typeof of === "number" ? `frame ${of} of ${job}` : `${of} frame of ${job}`);

function actions(flow) {
  const title = flow.name ?? flow.id;
  if (!ENDS.has(flow.state))
    return [button("Cancel", () => cancel(flow), { key: "cancel", kind: "steer", label: `Cancel: ${title}` })];
  if (flow.state === "succeeded") return [];
  return [button("Retry what did not succeed", () => retry(flow), { key: "retry", kind: "steer", label: `Retry what did not succeed: ${title}` })];
}

async function cancel(flow) {
  const text = "All of its jobs that have not ended are cancelled.";
  if (!(await confirm({ title: "Cancel this flow?", text, lines: [flow.name ?? flow.id], yes: "Cancel the flow", no: "Keep it" }))) return;
  await change(flow, "cancel", "Cancellation requested");
}

const retry = (flow) => change(flow, "retry", "The jobs that did not succeed are queued again.");

function change(flow, act, done) {
  return attempt(async () => {
    try {
      const answer = await post(`/api/v1/flows/${flow.id}/${act}`);
      if (own.id === flow.id) own.flow = answer;
    } catch (error) {
      if (act !== "cancel" || error.status !== 409) throw error;
      showMessage("The flow ended before it could be cancelled.");
      await load();
      return null;
    }
    changed();
    return done;
  }, null, { not: `The flow is not ${act === "cancel" ? "cancelled" : "retried"}` });
}
