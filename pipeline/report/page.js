"use strict";
// A reading line on line charts: the values at the step under the pointer, written as plain text.
for (const figure of document.querySelectorAll("figure[data-chart]")) {
  const chart = JSON.parse(figure.dataset.chart);
  const svg = figure.querySelector("svg");
  const line = figure.querySelector(".reading");
  const values = figure.querySelector(".values");
  const write = (n) => (Math.abs(n) >= 1000 ? Math.round(n).toLocaleString("en") : String(n));
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    let best = null;
    const said = [];
    for (const one of chart.lines) {
      let near = null;
      for (const p of one.points) if (!near || Math.abs(p[2] - at) < Math.abs(near[2] - at)) near = p;
      if (!near) continue;
      if (!best || Math.abs(near[2] - at) < Math.abs(best[2] - at)) best = near;
      said.push(one.name + " " + write(near[1]));
    }
    if (!best) return;
    line.setAttribute("x1", best[2]);
    line.setAttribute("x2", best[2]);
    line.classList.add("on");
    values.textContent = chart.x + " " + write(best[0]) + ":  " + said.join("   ");
  });
  svg.addEventListener("pointerleave", () => {
    line.classList.remove("on");
    values.textContent = "";
  });
}
