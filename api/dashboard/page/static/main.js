// Where the page begins: addresses to views, the state to what is drawn, the feed to how fresh it is.

import { alerts } from "./alerts.js";
import { base } from "./api.js";
import { devices } from "./devices.js";
import { say } from "./dialogs.js";
import { h, render } from "./dom.js";
import { seconds } from "./format.js";
import * as feed from "./feed.js";
import { filterBy, jobs } from "./jobs.js";
import { closeJob, drawJob, openJob, watched } from "./job_dialog.js";
import * as load from "./load.js";
import { models } from "./models.js";
import { newJob, startFrom, tellEnds } from "./new_job.js";
import { overview } from "./overview.js";
import { activeJobs, changed, learnJobs, state, whenChanged } from "./state.js";
import * as theme from "./theme.js";

const VIEWS = { overview, jobs, new: newJob, models, devices, alerts };
const ESSENTIAL = ["metrics", "workers", "active", "alerts"];
const WATCH_MS = 2_000;

const root = document.documentElement;
const byId = (id) => document.getElementById(id);
const titles = Object.fromEntries(Object.keys(VIEWS).map((name) => [name, byId(`h-${name}`).textContent]));

let view = null;
let behind = "jobs"; // the address under an open job
let newer = false; // whether the server has another page than this one

function route(first = false) {
  const [path, query] = location.hash.slice(1).split("?");
  const [name, id] = path.split("/");
  const asked = new URLSearchParams(query ?? "");
  if (name === "main") return; // the way past the navigation, not a view
  if (name === "job" && id) {
    show(view ?? "jobs", first);
    openJob(decodeURIComponent(id), () => {
      if (location.hash.startsWith("#job/")) history.replaceState(null, "", `#${behind}`);
      drawTitle();
    });
    drawTitle();
    return;
  }
  closeJob();
  const wanted = name in VIEWS ? name : "overview";
  behind = location.hash.slice(1) || "overview";
  if (wanted === "jobs") filterBy(asked);
  if (wanted === "new") startFrom(asked);
  show(wanted, first);
  if (wanted === "jobs" && !first) load.jobs().catch(() => {}); // the feed says that the server is lost
}

function show(name, first) {
  const moved = view !== name;
  view = name;
  root.dataset.view = name;
  for (const link of document.querySelectorAll("nav.side a")) {
    if (link.getAttribute("href") === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  drawTitle();
  if (!moved || first) return draw();
  draw();
  feed.look(name);
  scrollTo({ top: 0 });
  byId(`h-${name}`).focus({ preventScroll: true });
}

function drawTitle() {
  const open = state.alerts.size ? `(${state.alerts.size}) ` : "";
  document.title = `${open}${titles[view]} · wanworks`;
}

function draw() {
  render(document.querySelector(`#${view} .body`), VIEWS[view]());
  drawJob();
  drawNotice();
  drawConnection();
  drawCounts();
  drawTitle();
  tellEnds();
}

function drawConnection() {
  const { link, heard, lostAt } = feed.feed;
  const age = heard ? (Date.now() - heard) / 1000 : null;
  const stale = feed.isStale();
  const [shown, text] = {
    connecting: ["painted", heard ? "connecting…" : "reading…"],
    live: stale ? ["stale", `stale: last word ${seconds(age)} ago`] : ["live", "live"],
    polling: stale ? ["stale", `stale: last word ${seconds(age)} ago`] : ["polling", "every 5 s"],
    lost: ["lost", `server lost${age === null ? "" : `, figures ${seconds(age)} old`}`],
  }[link];
  const place = byId("connection");
  if (place.dataset.state !== shown) place.dataset.state = shown;
  if (byId("connection-text").textContent !== text) byId("connection-text").textContent = text;
  place.title = lostAt
    ? `lost ${seconds((Date.now() - lostAt) / 1000)} ago; trying again`
    : ({ live: "Changes arrive as they happen", polling: "No WebSocket: asking every five seconds" }[link] ?? "");
}

function drawCounts() {
  count("count-jobs", activeJobs().length, "waiting or running");
  const unseen = [...state.alerts.values()].filter((alert) => !alert.acknowledged);
  count(
    "count-alerts",
    unseen.length,
    "to look at",
    unseen.some((alert) => alert.severity === "critical") ? "critical" : "",
  );
  const { flower } = state;
  const place = byId("flower"); // there for those who administer
  if (flower && place) {
    const word = place.querySelector("small");
    if (flower.reachable) word?.remove();
    else if (!word)
      place.append(Object.assign(document.createElement("small"), { textContent: "does not answer" }));
  }
}

function count(id, value, label, level = "") {
  const place = byId(id);
  place.hidden = !value;
  place.dataset.level = level;
  if (place.dataset.value === String(value)) return;
  place.dataset.value = String(value);
  render(place, String(value), h("span", { class: "hidden" }, ` ${label}`));
}

/** What concerns every view: the server is lost, it cannot read, or it has a newer page than this one. */
function drawNotice() {
  const failed = [...new Set(ESSENTIAL.map((part) => state.notes[part]).filter(Boolean))];
  let notice = null;
  if (feed.feed.link === "lost")
    notice = h(
      "p",
      { key: "lost", class: "note bad" },
      "The server is lost. What is shown is old; trying again. No job is lost.",
    );
  else if (failed.length)
    notice = h("p", { key: "failed", class: "note bad" }, `Figures are missing. ${failed.join(" ")}`);
  else if (newer)
    notice = h(
      "p",
      { key: "newer", class: "note" },
      "The server has a newer page. ",
      h("a", { href: location.pathname, on: { click: () => location.reload() } }, "Load it"),
      ".",
    );
  else if (feed.feed.heard === null) return; // what the server wrote still stands
  render(byId("notice"), notice);
}

async function told(what) {
  drawNotice();
  if (what !== "regained") return;
  say("The server is back.", "good");
  const answer = await fetch(`${base}/`, { method: "HEAD", cache: "no-store" }).catch(() => null); // lost again: nothing new
  const served = answer?.headers.get("X-Wanworks-Page");
  newer = Boolean(served) && served !== document.querySelector("meta[name=wanworks-page]").content;
  changed();
}

/** Without a WebSocket an open or just made job is asked for more often than everything else. */
setInterval(async () => {
  if (feed.feed.link !== "polling" || document.hidden) return;
  const id = watched() ?? (view === "new" ? activeJobs()[0]?.id : null);
  if (id) learnJobs([await load.one(id).catch(() => ({ id: null }))].filter((job) => job.id));
}, WATCH_MS);

state.catalogue = JSON.parse(byId("catalogue").textContent);
whenChanged(draw);
theme.start(byId("theme"));
byId("refresh").addEventListener("click", async () => {
  await feed.refresh();
  if (feed.feed.link !== "lost") say("Refreshed.");
});
addEventListener("hashchange", () => route());
for (const wrong of ["error", "unhandledrejection"]) {
  addEventListener(wrong, () => say("Something on this page went wrong; loading it again may help.", "bad"));
}
route(true);
feed.start(view, told);
changed();
