"use strict";
// Nothing here is needed to read the page: it filters, links lines to steps while one points, and opens what a
// link leads to.
const steps = Array.from(document.querySelectorAll(".step"));
const lines = Array.from(document.querySelectorAll(".file li"));

function lineRange(step) {
  const [first, last] = (step.dataset.lines || "0-0").split("-").map(Number);
  return lines.slice(Math.max(0, first - 1), Math.max(0, last));
}

function light(step, on) {
  step.classList.toggle("lit", on);
  for (const line of lineRange(step)) line.classList.toggle("lit", on);
}

for (const step of steps) {
  const summary = step.querySelector("summary");
  for (const [event, on] of [["mouseenter", true], ["mouseleave", false], ["focusin", true], ["focusout", false]]) {
    (event.startsWith("focus") ? summary : step).addEventListener(event, () => light(step, on));
  }
}
lines.forEach((line, index) => {
  const users = steps.filter((step) => lineRange(step).includes(lines[index]));
  if (!users.length) return;
  line.addEventListener("mouseenter", () => users.forEach((step) => light(step, true)));
  line.addEventListener("mouseleave", () => users.forEach((step) => light(step, false)));
});

function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.classList.contains("step")) {
    target.open = true;
    target.hidden = false;
    target.querySelector("summary").focus({ preventScroll: true });
  }
}
window.addEventListener("hashchange", openTarget);

const search = document.getElementById("search");
const critical = document.getElementById("only-critical");
const cached = document.getElementById("hide-cached");
const count = document.getElementById("count");

function filter() {
  const wanted = search.value.trim().toLowerCase();
  let shown = 0;
  for (const step of steps) {
    const text = step.dataset.text || (step.dataset.text = step.textContent.toLowerCase());
    const hidden = (wanted && !text.includes(wanted)) || (critical.checked && !step.classList.contains("critical"))
      || (cached.checked && step.classList.contains("cached"));
    step.hidden = Boolean(hidden);
    shown += step.hidden ? 0 : 1;
  }
  for (const group of document.querySelectorAll(".group")) {
    group.hidden = !group.querySelector(".step:not([hidden])");
  }
  count.textContent = shown === steps.length ? "" : shown + " of " + steps.length + " steps shown";
}
for (const control of [search, critical, cached]) control.addEventListener("input", filter);

document.getElementById("open-all").addEventListener("click", (event) => {
  const open = event.currentTarget.getAttribute("aria-pressed") !== "true";
  for (const step of steps) step.open = open;
  event.currentTarget.setAttribute("aria-pressed", String(open));
});
for (const tool of document.querySelectorAll(".tools")) tool.hidden = false;
openTarget();
document.documentElement.dataset.ready = "true";
