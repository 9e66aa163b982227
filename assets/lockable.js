// Niceties only: every page works without them.
"use strict";
document.documentElement.classList.add("js");

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  if (!source) return;
  const text = "value" in source ? source.value : source.textContent.trim();
  const label = button.dataset.label ?? (button.dataset.label = button.textContent);
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    // Without a secure context there is no clipboard: select the text, so that one key copies it.
    const range = document.createRange();
    range.selectNodeContents(source);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    button.textContent = "Selected: press Ctrl+C";
  }
  setTimeout(() => { button.textContent = label; }, 3000);
});

document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset.confirm ?? event.target.dataset.confirm;
  if (question && !confirm(question)) { event.preventDefault(); return; }
  // A second click on the same button sends nothing more.
  if (event.target.dataset.sent) { event.preventDefault(); return; }
  event.target.dataset.sent = "1";
});
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

document.addEventListener("DOMContentLoaded", () => {
  document.getElementById("error-summary")?.focus();
  for (const time of document.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (!Number.isNaN(at.getTime())) time.title = at.toLocaleString();
  }
});

// Live locks: remaining times count down, and the list is fetched again every few seconds while
// the page is visible.
const remaining = (ms) => {
  const s = Math.floor(ms / 1000);
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
};
document.addEventListener("DOMContentLoaded", () => {
  const live = document.getElementById("live");
  if (!live) return;
  let readAt = performance.now();
  setInterval(() => {
    for (const cell of live.querySelectorAll("[data-remaining-ms]")) {
      const ms = Number(cell.dataset.remainingMs);
      const left = ms - (performance.now() - readAt);
      // 0 is the grace after an outage: the server's text stays.
      if (ms > 0) cell.textContent = left > 0 ? remaining(left) : "ends now";
    }
  }, 500);
  setInterval(async () => {
    // The reader keeps the focus and the selection.
    const isInUse = live.contains(document.activeElement) || !getSelection().isCollapsed;
    if (document.hidden || isInUse) return;
    try {
      const headers = { accept: "text/html" };
      const response = await fetch(location.href, { headers, redirect: "error" });
      const html = response.ok && await response.text();
      const page = html && new DOMParser().parseFromString(html, "text/html");
      const fresh = page && page.getElementById("live");
      if (!fresh) return;
      live.replaceChildren(...fresh.childNodes);
      readAt = performance.now();
    } catch { /* The next round may succeed. */ }
  }, Number(live.dataset.live));
});
