// Runs before the page is painted, so that nobody sees the wrong colours or the wrong view first. Knows nothing else.
"use strict";

(() => {
  const root = document.documentElement;
  let theme = null;
  try {
    theme = localStorage.getItem("wanworks.theme");
  } catch {
    // Storage is closed to us: the system's colours are right.
  }
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  const view = /^#(overview|jobs?|new|models|devices|alerts)\b/.exec(location.hash)?.[1] ?? "overview";
  root.dataset.view = view === "job" ? "jobs" : view;
})();
