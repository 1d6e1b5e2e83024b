// The overview: overall health, key figures, current jobs, newest videos and charts.

import { base } from "../base/api.js";
import { awaited, isOutdated, problem } from "../base/awaited.js";
import { chart } from "../base/chart.js";
import { h } from "../base/dom.js";
import { ago, clock, fraction, gigabytes, moment, NONE, number, percent, plural, seconds, words } from "../base/format.js";
import { feed, isStale } from "../base/feed.js";
import * as load from "../base/load.js";
import { badge, empty, placeTags, progressOf, thumbnail, titleOf } from "../base/parts.js";
import { firstRun, obstacle } from "./first_run.js";
import { noneOpen, pauseInForce, pauses } from "./pauses.js";
import { acceptsJobs, activeCount, activeJobs, changed, noDevice, state } from "../base/state.js";
import { isAdmin, usage } from "./usage.js";

const SPANS = [
  [1, "1 h", "the last hour"],
  [24, "24 h", "the last 24 hours"],
  [168, "7 d", "the last 7 days"],
];
const SHOWN = 5;
const FLOWER = "Flower: the monitor of Celery, which runs the workers";

export function overview() {
  return [
    health(),
    pauses(),
    firstRun(),
    h("ul", { class: "tiles" }, tiles()),
    h("div", { class: "columns" }, now(), newest()),
    h(
      "section",
      { class: "charts", "aria-labelledby": "h-charts" },
      h("div", { class: "row between" }, h("h2", { id: "h-charts" }, "Over time"), spans()),
      problem("history", "history", state.history.rows),
      h("div", { class: "chart-grid" }, charts()),
    ),
    usage(),
    h(
      "p",
      { class: "links" },
      state.flower && isAdmin()
        ? h("a", { href: state.flower.url, title: FLOWER }, `Flower (Celery${state.flower.reachable ? "" : ", not responding"})`)
        : null,
      h("a", { href: `${base}/docs` }, "API docs"),
    ),
  ];
}

function health() {
  const pause = pauseInForce();
  const found = overallHealth();
  // A pause is named beside what is worse.
  const [level, title] = found[0] === "good" && pause ? ["warn", pause] : found;
  const isLive = feed.link !== "lost" && !isStale();
  const open = [...state.alerts.values()].slice(0, 3);
  return h(
    "div",
    { class: `health ${level}`, role: "status" },
    h("span", { class: "dot", "aria-hidden": "true" }),
    h(
      "div",
      null,
      h("strong", null, title),
      open.map((alert) => h("a", { key: alert.id, href: "#alerts" }, alert.title, alert.acknowledged ? " (acknowledged)" : "")),
      pause && pause !== title && isLive ? h("strong", { key: "pause" }, pause) : null,
    ),
  );
}

/** What is wrong, the worst first. An acknowledged alert stays until its fault is over: knowing of it mends nothing. */
function overallHealth() {
  if (feed.link === "lost") return ["unknown", "Unknown: the server is unreachable"];
  if (isStale()) return ["unknown", "Unknown: the data is out of date"];
  const open = [...state.alerts.values()];
  const fresh = open.filter((alert) => !alert.acknowledged);
  if (fresh.some((alert) => alert.severity === "critical")) return ["bad", plural(fresh.length, "unacknowledged alert")];
  const none = noDevice();
  if (none) return ["bad", noneOpen(none)];
  if (["alerts", "metrics", "pauses", "firstRun", "workers"].some((part) => state.notes[part])) return ["unknown", "Some data could not be loaded"];
  if (!state.workers || !state.pauses || !state.loaded.has("alerts") || !state.firstRun) return ["unknown", "Loading…"];
  const wanting = obstacle();
  if (wanting) return wanting;
  if (fresh.some((alert) => alert.severity === "warning")) return ["warn", plural(fresh.length, "unacknowledged alert")];
  const serious = open.filter((alert) => alert.severity !== "info");
  if (serious.length) return ["warn", `${plural(serious.length, "alert")} open, acknowledged`];
  return ["good", "All is well: a job submitted now would run"];
}

function tiles() {
  const figures = state.metrics ?? {};
  const pending = (part) => (state.notes[part] ? "could not be loaded" : "loading");
  // What may have changed since says how old it is.
  const aged = (part, text) => (!isOutdated(part) ? text : state.loaded.get(part) ? `as of ${clock(state.loaded.get(part))}` : pending(part));
  const of = (text) => aged("metrics", state.metrics ? text : pending("metrics"));
  const devices = state.workers?.devices ?? [];
  const live = devices.filter((device) => device.state !== "offline");
  const open = live.filter(acceptsJobs);
  const finishing = live.filter((device) => device.finishing_job).length; // beside the jobs that run next on these devices
  const where = [
    open.length === live.length ? `on ${plural(live.length, "device")}` : `${open.length} of ${plural(live.length, "device")} accept${open.length === 1 ? "s" : ""} jobs`,
    finishing ? `${finishing} finishing` : "",
  ].filter(Boolean).join(", ");
  const queued = state.counts?.queued;
  const ended = (figures.succeeded_1h ?? 0) + (figures.failed_1h ?? 0);
  return [
    tile(
      "Running",
      number(state.counts?.running),
      aged("counts", state.workers ? where : pending("workers")),
      "#jobs?status=running",
    ),
    tile(
      "Queued",
      number(queued),
      aged("counts", queued === 0 ? "queue is empty" : figures.oldest_queued_seconds == null ? of("") : `oldest ${seconds(figures.oldest_queued_seconds)}`),
      "#jobs?status=queued",
    ),
    tile(
      "Throughput",
      figures.succeeded_1h == null ? NONE : `${number(figures.succeeded_1h)} / h`,
      of(`${plural(figures.total_generations_24h, "job")} in 24 h`),
      "#jobs?status=succeeded",
    ),
    tile(
      "Failure rate",
      ended ? fraction(figures.failed_1h / ended) : NONE,
      of(ended ? `${number(figures.failed_1h)} of ${ended} in the last hour` : "no job ended in the last hour"),
      "#jobs?status=failed",
    ),
    tile("Generation time", seconds(figures.average_generation_seconds), of("average, last hour")),
    tile(
      "Models",
      state.models ? `${modelCounts().ready} ready` : NONE,
      aged("models", state.models ? modelCounts().others : pending("models")),
      "#models",
    ),
    tile(
      "Utilisation",
      percent(figures.system_load_percent),
      of(figures.system_load_percent == null ? "not measured in the last minute" : "mean of the last minute"),
      "#devices",
    ),
    tile(
      "Disk used",
      percent(figures.disk_used_percent),
      of(`${figures.disk_free_gb == null ? "" : `${gigabytes(figures.disk_free_gb)} free, `}where the models are`),
      "#models",
    ),
  ];
}

const AVAILABILITY = { missing: "not downloaded", corrupted: "damaged", failed: "whose download failed", queued: "downloading", updating: "ready" };

/** Counts the models that can be used, and says what the others are. */
function modelCounts() {
  const models = Object.values(state.models);
  const ready = models.filter((one) => one.is_available).length;
  const others = new Map();
  for (const { availability_status: status } of models.filter((one) => !one.is_available)) {
    const text = AVAILABILITY[status] ?? words(status);
    others.set(text, (others.get(text) ?? 0) + 1);
  }
  const impaired = ready - (state.metrics?.healthy_models ?? ready);
  if (impaired > 0) others.set(`of them ${impaired === 1 ? "needs" : "need"} a look`, impaired);
  return { ready: number(ready), others: [...others].map(([text, count]) => `${count} ${text}`).join(", ") || "all of the catalogue" };
}

function tile(label, figure, hint, href) {
  const inside = [
    h("span", { class: "tile-label" }, label),
    h("span", { class: "tile-figure" }, figure),
    h("span", { class: "tile-note" }, hint),
  ];
  return h("li", { key: label, class: "tile" }, href ? h("a", { href }, inside) : inside);
}

function now() {
  const jobs = activeJobs();
  return h(
    "section",
    { class: "panel", "aria-labelledby": "h-now" },
    h("div", { class: "row between" }, h("h2", { id: "h-now" }, "Now"), h("a", { href: "#jobs" }, "All jobs")),
    jobs.length
      ? h(
          "ul",
          { class: "now" },
          jobs
            .slice(0, SHOWN)
            .map((job) =>
              h(
                "li",
                { key: job.id },
                h(
                  "div",
                  { class: "row between" },
                  h("a", { class: "title", href: `#job/${job.id}` }, titleOf(job)),
                  h("span", { class: "row" }, placeTags(job), badge(job.status)),
                ),
                progressOf(job),
              ),
            ),
        )
      : (awaited("active", "jobs") ?? empty("No active jobs. ", h("a", { href: "#new" }, "Create a video"))),
    activeCount() > SHOWN ? h("p", { class: "small muted" }, `and ${number(activeCount() - Math.min(SHOWN, jobs.length))} more`) : null,
  );
}

function newest() {
  const videos = state.latest.map((id) => state.videos.get(id)).filter(Boolean);
  return h(
    "section",
    { class: "panel", "aria-labelledby": "h-newest" },
    h(
      "div",
      { class: "row between" },
      h("h2", { id: "h-newest" }, "Newest videos"),
      h("a", { href: "#gallery" }, "All videos"),
    ),
    videos.length
      ? h(
          "ul",
          { class: "videos", "aria-label": "Newest videos" },
          videos.map((video) =>
            h(
              "li",
              { key: video.id },
              h(
                "a",
                { href: `#job/${video.id}` },
                h(
                  "span",
                  { class: "frame" },
                  thumbnail(video.thumbnail?.url),
                ),
                h("span", { class: "title" }, video.prompt),
                h(
                  "span",
                  { class: "small muted", title: moment(video.finished_at) },
                  `${video.model_id} · ${videos.some((one) => one !== video && one.prompt === video.prompt) ? `seed ${video.seed} · ` : ""}${ago(video.finished_at)}`,
                ),
              ),
            ),
          ),
        )
      : (awaited("latest", "videos") ?? empty("No videos yet.")),
  );
}

function spans() {
  return h(
    "div",
    { class: "segments", role: "group", "aria-label": "Time range" },
    SPANS.map(([hours, text, label]) =>
      h(
        "button",
        {
          key: hours,
          type: "button",
          "aria-pressed": String(state.history.hours === hours),
          "aria-label": `${text}: ${label}`,
          on: { click: () => show(hours) },
        },
        text,
      ),
    ),
  );
}

function show(hours) {
  state.history = { hours, rows: null };
  changed();
  load.history().catch(() => {}); // the feed reports an unreachable server
}

let drawn = { rows: undefined, specs: [] };

/** Returns the charts. Keeps the same specs while the history is the same, so that the charts are not redrawn. */
function charts() {
  const { hours, rows } = state.history;
  const nothing = rows ? undefined : state.notes.history ? "could not be loaded" : "loading…";
  if (drawn.rows !== rows || drawn.hours !== hours || drawn.nothing !== nothing)
    drawn = { rows, hours, nothing, specs: specs(hours, rows ?? []).map((spec) => ({ ...spec, nothing })) };
  return drawn.specs.map(chart);
}

function specs(hours, rows) {
  const times = rows.map((row) => Date.parse(row.timestamp));
  // What a series is now is beside its name: the newest point of a long time is a mean of some minutes.
  const of = (name, from, live = () => state.metrics?.[from]) => ({ name, live, values: rows.map((row) => row[from] ?? null) });
  const at = () => feed.answeredAt;
  const plain = (value) => number(value, 1);
  const share = (value) => percent(value);
  return [
    {
      title: "Jobs",
      hours,
      times,
      at,
      format: plain,
      least: 2,
      series: [of("running", "running_jobs", () => state.counts?.running), of("queued", "queued_jobs", () => state.counts?.queued)],
    },
    {
      title: "Videos per hour",
      hours,
      times,
      at,
      format: plain,
      least: 2,
      series: [of("succeeded", "succeeded_1h"), of("failed", "failed_1h")],
    },
    {
      title: "Generation time",
      hours,
      times,
      at,
      format: seconds,
      inSeconds: true,
      series: [of("average", "average_generation_seconds")],
    },
    {
      title: "Oldest job in the queue",
      hours,
      times,
      at,
      format: seconds,
      inSeconds: true,
      series: [of("waiting for", "oldest_queued_seconds")],
    },
    {
      title: "Device utilisation",
      hours,
      times,
      at,
      top: 100,
      format: share,
      series: [of("average", "system_load_percent")],
    },
    {
      title: "Device memory",
      hours,
      times,
      at,
      top: 100,
      format: share,
      series: [of("in use", "memory_usage_percent")],
    },
  ];
}
