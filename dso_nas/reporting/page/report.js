"use strict";
// Shows the search's state after an epoch. The address says which: report.html#epoch=3&block=1.
(function () {
  const source = document.getElementById("search-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const last = data.live.length - 1;
  const slider = document.getElementById("epoch");
  const which = document.getElementById("which");
  const position = document.getElementById("position");
  const play = document.getElementById("play");
  const paths = Array.from(document.querySelectorAll("#block .connection"));
  const titles = paths.map((path) => path.querySelector("title").textContent);
  const operations = Array.from(document.querySelectorAll("#block .operation"));
  const fixed = Array.from(document.querySelectorAll("#block .fixed"));
  const chips = Array.from(document.querySelectorAll(".chip"));
  let timer = null;

  function largest(arrays) {
    let most = 0;
    for (const array of arrays) for (const value of array) most = Math.max(most, value);
    return most || 1;
  }

  function strength(value, most) {
    return Math.min(1, Math.max(0, value / most));
  }

  function showBlock(lambdas) {
    const most = largest([lambdas]);
    const alive = new Set();
    paths.forEach((path, place) => {
      const value = lambdas[Number(path.dataset.k)];
      const lives = value > 0;
      path.classList.toggle("gone", !lives);
      if (!lives) return;
      alive.add(path.dataset.source).add(path.dataset.target);
      path.style.opacity = (0.2 + 0.8 * strength(value, most)).toFixed(3);
      path.style.strokeWidth = (0.8 + 3.6 * strength(value, most)).toFixed(2);
      path.querySelector("title").textContent = titles[place] + ": " + value;
    });
    operations.forEach((node) => node.classList.toggle("dead", !alive.has(node.dataset.node)));
    fixed.forEach((line) => line.classList.toggle("gone", !alive.has(line.dataset.fixed)));
  }

  function showRows(epoch) {
    for (const chip of chips) {
      const now = data.rows[Number(chip.dataset.row)][epoch];
      const value = now[Number(chip.dataset.place)];
      chip.classList.toggle("dead", !(value > 0));
      chip.style.opacity = value > 0 ? (0.4 + 0.6 * strength(value, largest([now]))).toFixed(3) : "";
      chip.title = "lambda " + value;
    }
  }

  function show(epoch, block) {
    slider.value = epoch;
    if (which) which.value = block;
    if (data.blocks.length) showBlock(data.blocks[block][epoch]);
    showRows(epoch);
    const when = epoch === 0 ? "before the search" : "after epoch " + epoch + " of " + last;
    position.textContent = when + ": " + data.live[epoch] + " of " + data.total + " lambdas live";
    document.body.dataset.epoch = epoch;
  }

  function within(text, most, otherwise) {
    const number = parseInt(text, 10);
    return number >= 0 && number <= most ? number : otherwise;
  }

  function fromAddress() {
    const words = new URLSearchParams(location.hash.slice(1));
    show(within(words.get("epoch"), last, last), within(words.get("block"), data.blocks.length - 1, 0));
  }

  function toAddress() {
    const block = which ? "&block=" + which.value : "";
    history.replaceState(null, "", "#epoch=" + slider.value + block);
    fromAddress();
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "▶ play";
  }

  function step() {
    if (Number(slider.value) >= last) return stop();
    slider.value = Number(slider.value) + 1;
    toAddress();
  }

  play.addEventListener("click", () => {
    if (timer) return stop();
    if (Number(slider.value) >= last) slider.value = 0;
    toAddress();
    play.textContent = "❚❚ stop";
    timer = setInterval(step, 700);
  });
  slider.addEventListener("input", () => { stop(); toAddress(); });
  if (which) which.addEventListener("change", toAddress);
  window.addEventListener("hashchange", fromAddress);
  fromAddress();
})();
