// The farm at a glance: is all well, what runs, how it went over time.

import { base } from "./api.js";
import { chart } from "./chart.js";
import { h } from "./dom.js";
import { ago, fraction, NONE, number, percent, plural, seconds } from "./format.js";
import { feed, isStale } from "./feed.js";
import * as load from "./load.js";
import { artifactOf, badge, durationOf, empty, note, progressOf, titleOf } from "./parts.js";
import { activeJobs, changed, state } from "./state.js";

const SPANS = [
  [1, "1 h", "the last hour"],
  [24, "24 h", "the last 24 hours"],
  [168, "7 d", "the last 7 days"],
];
const SHOWN = 5;

export function overview() {
  return [
    health(),
    h("ul", { class: "tiles" }, tiles()),
    h("div", { class: "columns" }, now(), newest()),
    h(
      "section",
      { class: "charts", "aria-labelledby": "h-charts" },
      h("div", { class: "row between" }, h("h2", { id: "h-charts" }, "Over time"), spans()),
      note(state.notes.history && `The history cannot be read: ${state.notes.history}`, "bad"),
      h("div", { class: "chart-grid" }, charts()),
    ),
    h(
      "p",
      { class: "links" },
      state.flower && document.body.dataset.may.includes("admin")
        ? h("a", { href: state.flower.url }, state.flower.reachable ? "Flower" : "Flower (does not answer)")
        : null,
      h("a", { href: `${base}/docs` }, "API docs"),
    ),
  ];
}

function health() {
  const [level, title] = judged();
  const open = [...state.alerts.values()].filter((alert) => !alert.acknowledged).slice(0, 3);
  return h(
    "div",
    { class: `health ${level}` },
    h("span", { class: "dot", "aria-hidden": "true" }),
    h(
      "div",
      null,
      h("strong", null, title),
      open.map((alert) => h("a", { key: alert.id, href: "#alerts" }, alert.title)),
    ),
  );
}

function judged() {
  if (feed.link === "lost") return ["unknown", "Unknown: the server is lost"];
  if (isStale()) return ["unknown", "Unknown: the last word of the server is old"];
  const severities = [...state.alerts.values()].filter((alert) => !alert.acknowledged).map((alert) => alert.severity);
  const devices = state.workers?.devices ?? [];
  if (severities.includes("critical")) return ["bad", plural(severities.length, "alert", "alerts") + " to look at"];
  if (state.workers && !devices.some((device) => !["offline", "draining", "drained"].includes(device.state)))
    return ["bad", "No device takes jobs: they wait"];
  if (severities.includes("warning")) return ["warn", plural(severities.length, "alert", "alerts") + " to look at"];
  if (state.notes.alerts || state.notes.metrics) return ["unknown", "Not everything could be read"];
  if (!state.workers) return ["unknown", "Looking…"];
  return ["good", state.alerts.size ? "Nothing that nobody takes care of" : "All is well"];
}

function tiles() {
  const figures = state.metrics ?? {};
  const of = (text) => (state.metrics ? text : "not read yet");
  const devices = state.workers?.devices ?? [];
  const live = devices.filter((device) => device.state !== "offline");
  const ended = (figures.succeeded_1h ?? 0) + (figures.failed_1h ?? 0);
  return [
    tile(
      "Running",
      number(figures.running_jobs),
      state.workers
        ? `${live.filter((device) => device.job).length} of ${plural(live.length, "device")} busy`
        : "not read yet",
      "#jobs?status=running",
    ),
    tile(
      "Queued",
      number(figures.queued_jobs),
      figures.oldest_queued_seconds == null ? of("nothing waits") : `oldest ${seconds(figures.oldest_queued_seconds)}`,
      "#jobs?status=queued",
    ),
    tile(
      "Throughput",
      figures.succeeded_1h == null ? NONE : `${number(figures.succeeded_1h)} / h`,
      of(`${number(figures.total_generations_24h)} in 24 h`),
      "#jobs?status=succeeded",
    ),
    tile(
      "Failure rate",
      ended ? fraction(figures.failed_1h / ended) : NONE,
      ended ? `${number(figures.failed_1h)} of ${ended} in the last hour` : of("nothing ended in the last hour"),
      "#jobs?status=failed",
    ),
    tile("Generation time", seconds(figures.average_generation_seconds), of("average, last hour")),
    tile(
      "Models",
      figures.total_models == null ? NONE : `${figures.healthy_models} / ${figures.total_models}`,
      of("healthy"),
      "#models",
    ),
    tile(
      "Utilisation",
      percent(figures.system_load_percent),
      figures.memory_usage_percent == null ? of("of the devices") : `memory ${percent(figures.memory_usage_percent)}`,
      "#devices",
    ),
    tile(
      "Model storage",
      percent(figures.disk_used_percent),
      figures.disk_free_gb == null ? of("used") : `${number(figures.disk_free_gb)} GB free`,
      "#models",
    ),
  ];
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
                  badge(job.status),
                ),
                progressOf(job),
              ),
            ),
        )
      : state.notes.active
        ? note("The jobs cannot be read.", "bad")
        : empty("Nothing runs and nothing waits. ", h("a", { href: "#new" }, "Make a video")),
    jobs.length > SHOWN ? h("p", { class: "small muted" }, `and ${number(jobs.length - SHOWN)} more`) : null,
  );
}

function newest() {
  const jobs = state.latest.map((id) => state.jobs.get(id)).filter(Boolean);
  return h(
    "section",
    { class: "panel", "aria-labelledby": "h-newest" },
    h(
      "div",
      { class: "row between" },
      h("h2", { id: "h-newest" }, "Newest videos"),
      h("a", { href: "#jobs?type=generation&status=succeeded" }, "All videos"),
    ),
    jobs.length
      ? h(
          "ul",
          { class: "videos" },
          jobs.map((job) => {
            const picture = artifactOf(job, "thumbnail");
            return h(
              "li",
              { key: job.id },
              h(
                "a",
                { href: `#job/${job.id}` },
                h(
                  "span",
                  { class: "frame" },
                  picture ? h("img", { src: picture.url, alt: "", loading: "lazy" }) : null,
                ),
                h("span", { class: "title" }, titleOf(job)),
                h(
                  "span",
                  { class: "small muted" },
                  `${job.model_id} · ${seconds(durationOf(job))} · ${ago(job.finished_at)}`,
                ),
              ),
            );
          }),
        )
      : state.notes.latest
        ? note("The videos cannot be read.", "bad")
        : empty("No video yet."),
  );
}

function spans() {
  return h(
    "div",
    { class: "segments", role: "group", "aria-label": "Time shown" },
    SPANS.map(([hours, text, label]) =>
      h(
        "button",
        {
          key: hours,
          type: "button",
          "aria-pressed": String(state.history.hours === hours),
          "aria-label": label,
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
  load.history().catch(() => {}); // the feed says that the server is lost
}

let drawn = { rows: undefined, specs: [] };

/** Made anew only where the history is: the charts then know that nothing has changed. */
function charts() {
  const { hours, rows } = state.history;
  if (drawn.rows !== rows || drawn.hours !== hours) drawn = { rows, hours, specs: specs(hours, rows ?? []) };
  return drawn.specs.map(chart);
}

function specs(hours, rows) {
  const times = rows.map((row) => Date.parse(row.timestamp));
  const of = (name, from) => ({ name, values: rows.map((row) => row[from] ?? null) });
  const plain = (value) => number(value, 1);
  const share = (value) => percent(value);
  return [
    {
      title: "Jobs",
      hours,
      times,
      format: plain,
      least: 2,
      series: [of("running", "running_jobs"), of("queued", "queued_jobs")],
    },
    {
      title: "Videos an hour",
      hours,
      times,
      format: plain,
      least: 2,
      series: [of("succeeded", "succeeded_1h"), of("failed", "failed_1h")],
    },
    {
      title: "Generation time",
      hours,
      times,
      format: seconds,
      inSeconds: true,
      series: [of("average", "average_generation_seconds")],
    },
    {
      title: "Oldest job in the queue",
      hours,
      times,
      format: seconds,
      inSeconds: true,
      series: [of("waits for", "oldest_queued_seconds")],
    },
    {
      title: "Device utilisation",
      hours,
      times,
      top: 100,
      format: share,
      series: [of("average", "system_load_percent")],
    },
    {
      title: "Device memory (VRAM)",
      hours,
      times,
      top: 100,
      format: share,
      series: [of("in use", "memory_usage_percent")],
    },
  ];
}
