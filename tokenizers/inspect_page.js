"use strict";
// What is drawn over the text is switched by classes of the body; the address keeps it: #show=tokens,patches
const names = ["tokens", "patches"];
const box = (name) => document.getElementById("show-" + name);
const draw = () => {
  for (const name of names) if (box(name)) document.body.classList.toggle("show-" + name, box(name).checked);
  for (const link of document.querySelectorAll("a[data-page]")) link.hash = location.hash;
  for (const form of document.forms) form.action = "/" + location.hash;
};
const read = () => {
  if (!location.hash.startsWith("#show=")) return;
  const shown = location.hash.slice(6).split(",");
  for (const name of names) if (box(name)) box(name).checked = shown.includes(name);
};
for (const name of names) {
  if (!box(name)) continue;
  box(name).addEventListener("change", () => {
    const on = names.filter((n) => box(n) && box(n).checked);
    history.replaceState(null, "", "#show=" + on.join(","));
    draw();
  });
}
addEventListener("hashchange", () => { read(); draw(); });
read();
draw();
// A picture tells its own size once it is drawn; one that a browser cannot draw says so.
for (const image of document.querySelectorAll(".drawn img")) {
  const tell = () => { image.dataset.pixels = image.naturalWidth + "x" + image.naturalHeight; };
  if (image.complete) tell();
  image.addEventListener("load", tell);
  image.addEventListener("error", () => { image.alt = "the browser cannot draw this picture"; tell(); });
}
