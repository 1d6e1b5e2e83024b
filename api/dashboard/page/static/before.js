// Sets the theme and the view before the first paint, so that neither flickers. Imports no other module.
"use strict";

(() => {
  const root = document.documentElement;
  let theme = null;
  try {
    theme = localStorage.getItem("wanworks.theme");
  } catch {
    // Storage is unavailable: use the system's colours.
  }
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  const view = /^#(overview|gallery|jobs?|flows?|new|models|devices|alerts)\b/.exec(location.hash)?.[1] ?? root.dataset.first;
  root.dataset.view = { job: "jobs", flow: "flows" }[view] ?? view;
})();
