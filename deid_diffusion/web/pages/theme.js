// Before the first paint, so that a dark page does not flash white.
try {
  const chosen = localStorage.getItem("deid-theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch { /* a frame that may keep nothing */ }
