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
// Maps of documents: the nearest point under the pointer, and the domain a name in the legend stands for.
for (const figure of document.querySelectorAll("figure[data-points]")) {
  const at = figure.dataset.points.split(" ").map(Number);
  const [domains, sources, texts] = ["domains", "sources", "texts"].map((k) => figure.dataset[k].split("\n"));
  const svg = figure.querySelector("svg");
  const here = figure.querySelector(".here");
  const tip = figure.querySelector(".tip");
  const group = figure.querySelector(".domains");
  const show = (i) => {
    here.classList.toggle("on", i >= 0);
    if (i < 0) return;
    here.setAttribute("cx", at[4 * i]);
    here.setAttribute("cy", at[4 * i + 1]);
    const source = sources[at[4 * i + 3]];
    tip.textContent = domains[at[4 * i + 2]] + (source ? "  \u00b7  " + source : "") + "\n" + texts[i];
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale;
    const y = (event.clientY - box.top) * scale;
    let best = -1;
    let least = 900 * scale;
    for (let i = 0; i < texts.length; i += 1) {
      const far = (at[4 * i] - x) ** 2 + (at[4 * i + 1] - y) ** 2;
      if (far < least) [best, least] = [i, far];
    }
    show(best);
  });
  svg.addEventListener("pointerleave", () => {
    show(-1);
    tip.textContent = "";
  });
  figure.querySelectorAll(".legend li").forEach((item, d) => {
    const only = (on) => {
      group.classList.toggle("one", on);
      group.children[d].classList.toggle("on", on);
    };
    item.addEventListener("pointerenter", () => only(true));
    item.addEventListener("pointerleave", () => only(false));
  });
}
