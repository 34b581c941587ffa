"use strict";
const data = JSON.parse(document.getElementById("traces").textContent), size = 256;
const reader = document.getElementById("reader"), tip = document.getElementById("tip"), choice = document.getElementById("text");
let measure = "h", text = data.texts[0];
const known = value => value !== null && value !== undefined;
const number = value => known(value) ? (value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(2) : value.toPrecision(3)) : "none";
function paint(token, i) {
  const value = measure === "d" ? (known(text.h[i]) && known(text.b[i]) ? text.b[i] - text.h[i] : null) : text[measure][i];
  if (!known(value)) return;
  const share = Math.min(1, Math.abs(value) / data.cap[measure]) ** 0.75;
  token.style.background = `rgba(${measure === "d" && value < 0 ? "0,114,178" : "213,94,0"},${(0.85 * share).toFixed(3)})`;
}
function fill(block) {
  if (block.childElementCount) return;
  const start = +block.dataset.start, stop = +block.dataset.stop;
  const fragment = document.createDocumentFragment();
  for (let i = start; i < stop; i++) {
    const token = document.createElement("span");
    token.textContent = text.pieces[i] || "\u00b7";
    token.dataset.i = i;
    if (text.prompt[i]) token.className = "prompt";
    paint(token, i);
    fragment.append(token);
  }
  block.style.minHeight = "";
  block.replaceChildren(fragment);
}
const watch = new IntersectionObserver(entries => entries.forEach(entry => {
  const block = entry.target;
  if (entry.isIntersecting) fill(block);
  else if (block.childElementCount) {  // what is far away is forgotten; its height is kept, so that nothing jumps
    block.style.minHeight = `${block.offsetHeight}px`;
    block.replaceChildren();
  }
}), { rootMargin: "1200px" });
function draw() {
  watch.disconnect();
  const blocks = [];
  for (let start = 0, stop; start < text.pieces.length; start = stop) {
    // blocks end where lines do, if a line ends soon enough
    stop = Math.min(start + size, text.pieces.length);
    while (stop < text.pieces.length && stop < start + 8 * size && !text.pieces[stop - 1].endsWith("\n")) stop++;
    const block = document.createElement("div");
    block.dataset.start = start;
    block.dataset.stop = stop;
    block.style.minHeight = "10rem";
    blocks.push(block);
  }
  reader.replaceChildren(...blocks);
  blocks.forEach(block => watch.observe(block));
  document.getElementById("cap").textContent = `${measure === "d" ? "\u00b1" : ""}${number(data.cap[measure])} nats or more`;
  document.getElementById("key").className = measure === "d" ? "both" : "";
}
function tell(event) {
  const token = event.target.closest("#reader span");
  tip.hidden = !token;
  if (!token) return;
  const i = +token.dataset.i, lines = [];
  lines.push(`token ${i}: ${JSON.stringify(text.pieces[i])}`, `entropy ${number(text.h[i])} nats`);
  if (text.b) lines.push(`second model ${number(text.b[i])}`);
  if (text.kl) lines.push(`KL(1||2) ${number(text.kl[i])}`);
  if (known(text.s[i])) lines.push(`p of this token ${number(Math.exp(-text.s[i]))}` + (text.r && known(text.r[i]) ? `, rank ${text.r[i].toLocaleString("en")}` : ""));
  if (text.top && text.top[i]) lines.push("", ...text.top[i].map(([piece, p]) => `${p.toFixed(3)}  ${JSON.stringify(piece)}`));
  tip.textContent = lines.join("\n");
  const box = token.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${box.bottom + tip.offsetHeight + 8 < innerHeight ? box.bottom + 4 : box.top - tip.offsetHeight - 4}px`;
}
data.texts.forEach(({ name, pieces }, index) => choice.append(new Option(`${name} (${pieces.length.toLocaleString("en")} tokens)`, index)));
choice.addEventListener("change", () => { text = data.texts[+choice.value]; draw(); });
document.querySelectorAll("[data-measure]").forEach(button => button.addEventListener("click", () => {
  measure = button.dataset.measure;
  document.querySelectorAll("[data-measure]").forEach(b => b.setAttribute("aria-pressed", b === button));
  draw();
}));
reader.addEventListener("mouseover", tell);
reader.addEventListener("mouseleave", () => { tip.hidden = true; });
addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
document.getElementById("controls").hidden = false;
draw();
