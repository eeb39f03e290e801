// Plays videos, alone or two together, and filters and sorts the gallery. Without it, every page shows its rows, and a video opens by its link.
"use strict";

const vidgenReport = (() => {
  const gallery = document.getElementById("gallery");
  const cards = document.getElementById("cards");
  const root = gallery.dataset.root;
  const here = gallery.dataset.here;
  // What needs a script is shown where there is one.
  document.documentElement.classList.add("scripted");
  const keepsStill = matchMedia("(prefers-reduced-motion: reduce)");

  // Files of the report come as scripts: a page that is opened from a disk may not read others.
  const arriving = new Map();
  const answers = new Map();
  let catalogue = null;

  function load(name) {
    if (!arriving.has(name)) {
      arriving.set(name, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = here + name;
        script.onload = () => resolve(answers.get(name));
        script.onerror = () => {
          arriving.delete(name);
          script.remove();
          reject(new Error(name));
        };
        document.head.append(script);
      }));
    }
    return arriving.get(name);
  }

  // ---- Playing

  const playing = new Map();
  const held = new Set();

  // The videos that play together, by the element that they are in.
  const areaOf = (link) => link.closest("[data-together]") || link;
  const linksIn = (area) => (area.matches("a") ? [area] : [...area.querySelectorAll("a[data-video]")]);

  function play(area) {
    if (playing.has(area)) return;
    const videos = linksIn(area).map((link) => {
      const video = document.createElement("video");
      Object.assign(video, { src: link.href, muted: true, playsInline: true, preload: "auto" });
      video.setAttribute("aria-hidden", "true");
      video.addEventListener("playing", () => link.classList.add("playing"));
      link.append(video);
      return video;
    });
    playing.set(area, videos);
    if (videos.length > 1) keepTogether(area, videos);
    else videos.forEach((video) => { video.loop = true; });
    // One that does not load does not keep the others waiting.
    const ready = (video) => new Promise((resolve) => {
      for (const name of ["canplay", "error"]) video.addEventListener(name, resolve, { once: true });
    });
    Promise.all(videos.map(ready)).then(() => { if (playing.get(area) === videos) start(videos); });
  }

  // It was taken away before it could play, or the browser cannot play it: the poster stays.
  const start = (videos) => videos.forEach((video) => video.play().catch(() => {}));

  function keepTogether(area, videos) {
    const [first, ...others] = videos;
    first.addEventListener("timeupdate", () => {
      for (const other of others) {
        if (!first.ended && !other.ended && Math.abs(other.currentTime - first.currentTime) > 0.1) other.currentTime = first.currentTime;
      }
    });
    for (const video of videos) {
      // The shorter one waits for the longer one.
      video.addEventListener("ended", () => {
        if (playing.get(area) !== videos || !videos.every((one) => one.ended || one.error)) return;
        for (const one of videos) one.currentTime = 0;
        start(videos);
      });
    }
  }

  function stop(area) {
    for (const video of playing.get(area) || []) {
      video.parentElement.classList.remove("playing");
      video.pause();
      video.removeAttribute("src");
      video.load();
      video.remove();
    }
    playing.delete(area);
    hold(area, false);
  }

  const stopAll = () => [...playing.keys()].forEach(stop);

  const groupOf = (button) => button.closest("[data-group]").querySelector("[data-together]");

  // Whether it plays until it is told to stop, wherever the pointer is.
  function hold(area, holds) {
    if (holds) held.add(area);
    else held.delete(area);
    const button = area.closest("[data-group]")?.querySelector("[data-play]");
    if (button) button.setAttribute("aria-pressed", holds);
  }

  const linkOf = (event) => (event.target instanceof Element ? event.target.closest("a[data-video]") : null);

  function startBy(event) {
    const link = linkOf(event);
    if (link && !keepsStill.matches && event.pointerType !== "touch") play(areaOf(link));
  }

  function endBy(event) {
    const link = linkOf(event);
    if (!link || held.has(areaOf(link))) return;
    const links = linksIn(areaOf(link));
    if (event.relatedTarget instanceof Node && links.some((one) => one.contains(event.relatedTarget))) return;
    // A finger leaves with each tap.
    if (event.pointerType === "touch") return;
    if (event.type === "pointerout" && links.some((one) => one.matches(":focus-visible"))) return;
    if (event.type === "focusout" && links.some((one) => one.matches(":hover"))) return;
    stop(areaOf(link));
  }

  let lastPointer = "";
  document.addEventListener("pointerdown", (event) => { lastPointer = event.pointerType; });
  document.addEventListener("pointerover", startBy);
  document.addEventListener("pointerout", endBy);
  document.addEventListener("focusin", (event) => {
    const link = linkOf(event);
    if (link && link.matches(":focus-visible")) startBy(event);
  });
  document.addEventListener("focusout", endBy);
  document.addEventListener("click", (event) => {
    const button = event.target instanceof Element ? event.target.closest("[data-play]") : null;
    if (button) return toggle(groupOf(button));
    const link = linkOf(event);
    // A finger cannot hover: a tap plays and stops. A link that is opened in another tab is left alone.
    if (!link || lastPointer !== "touch" || event.detail === 0 || keepsStill.matches) return undefined;
    event.preventDefault();
    const was = playing.has(areaOf(link));
    stopAll();
    if (!was) play(areaOf(link));
    return undefined;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") stopAll();
  });

  function toggle(area) {
    const was = held.has(area);
    stopAll();
    if (was) return;
    play(area);
    hold(area, true);
  }

  // ---- Filtering and sorting

  const form = gallery.querySelector("form");
  const found = gallery.querySelector(".found");
  const [ownPager, pager] = gallery.querySelectorAll("nav.pager");
  const ownCards = cards ? [...cards.children] : [];
  let shownAt = 0;
  let turn = 0;

  const pageName = (page) => `${String(page).padStart(4, "0")}.js`;

  async function cardOf(row) {
    const page = Math.floor(row / catalogue.size);
    const rows = await load(pageName(page + 1));
    // Parsed in a document of its own, which loads no posters.
    return new DOMParser().parseFromString(rows[row % catalogue.size], "text/html").querySelector("article");
  }

  function placed(card) {
    const copy = document.importNode(card, true);
    for (const [selector, name] of [["a.media", "href"], ["img", "src"]]) {
      for (const element of copy.querySelectorAll(selector)) {
        element.setAttribute(name, root + element.getAttribute(name));
      }
    }
    return copy;
  }

  const texts = new Map();

  async function textOf(row) {
    if (!texts.has(row)) {
      const parts = [...(await cardOf(row)).querySelectorAll("[data-text]")];
      texts.set(row, parts.map((part) => part.textContent).join("\n").toLowerCase());
    }
    return texts.get(row);
  }

  function wanted() {
    const given = Object.fromEntries(new FormData(form));
    return { ...given, q: given.q.trim() };
  }

  const isPlain = (want) => !want.q && !want.status && !want.flag && want.sort === "given";

  function fits(row, want) {
    const flags = catalogue.flags[row];
    if (want.status && catalogue.status[row] !== want.status[0]) return false;
    if (want.flag === "any") return flags !== 0;
    if (want.flag === "none") return flags === 0 && catalogue.status[row] === "d";
    if (want.flag) return (flags & (1 << catalogue.flagNames.indexOf(want.flag.slice(3)))) !== 0;
    return true;
  }

  function sorted(rows, sort) {
    if (sort === "given") return rows;
    const descending = sort.startsWith("-");
    const values = catalogue.sorts[sort.replace("-", "")];
    // Rows without the figure come last, either way.
    const missing = (row) => values[row] === null;
    return rows.sort((one, other) => missing(one) - missing(other)
      || (descending ? values[other] - values[one] : values[one] - values[other])
      || one - other);
  }

  async function find(want, mine) {
    catalogue = await load("index.js");
    let rows = [...catalogue.status].map((_, row) => row).filter((row) => fits(row, want));
    if (want.q) {
      const words = want.q.toLowerCase().split(/\s+/);
      const kept = [];
      for (const row of rows) {
        const text = await textOf(row);
        if (mine !== turn) return null;
        if (words.every((word) => text.includes(word))) kept.push(row);
      }
      rows = kept;
    }
    return sorted(rows, want.sort);
  }

  function plain() {
    turn += 1;
    stopAll();
    cards.replaceChildren(...ownCards);
    markChosen();
    ownPager.hidden = false;
    pager.hidden = true;
    found.textContent = "";
  }

  async function update() {
    const want = wanted();
    remember(want);
    if (isPlain(want)) return plain();
    const mine = (turn += 1);
    found.textContent = "Searching…";
    try {
      const rows = await find(want, mine);
      if (rows && mine === turn) await show(rows, mine);
    } catch {
      found.textContent = "A file of this report is missing: it may have been made anew. Reload the page.";
    }
    return undefined;
  }

  async function show(rows, mine) {
    shownAt = Math.max(0, Math.min(shownAt, Math.ceil(rows.length / catalogue.size) - 1));
    const some = await Promise.all(rows.slice(shownAt * catalogue.size, (shownAt + 1) * catalogue.size).map(cardOf));
    if (mine !== turn) return;
    stopAll();
    cards.replaceChildren(...some.map(placed));
    markChosen();
    ownPager.hidden = true;
    found.textContent = `${rows.length.toLocaleString("en")} of ${catalogue.status.length.toLocaleString("en")} rows`;
    const pages = Math.ceil(rows.length / catalogue.size);
    pager.hidden = pages < 2;
    const label = document.createElement("span");
    label.textContent = `Page ${shownAt + 1} of ${pages}`;
    pager.replaceChildren(step("Previous", -1, shownAt > 0, rows), label, step("Next", 1, shownAt < pages - 1, rows));
  }

  function step(name, by, enabled, rows) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.disabled = !enabled;
    button.addEventListener("click", async () => {
      shownAt += by;
      await show(rows, (turn += 1));
      gallery.scrollIntoView();
      found.textContent += `, page ${shownAt + 1}`;
      const again = [...pager.querySelectorAll("button")];
      (again.find((one) => one.textContent === name && !one.disabled) || again.find((one) => !one.disabled)).focus({ preventScroll: true });
    });
    return button;
  }

  // What is looked for is in the address, so that it can be passed on.
  function remember(want) {
    const kept = Object.entries(want).filter(([key, value]) => value && !(key === "sort" && value === "given"));
    const hash = kept.length ? `#${new URLSearchParams(kept)}` : location.hash.includes("=") ? "#gallery" : location.hash;
    if (hash !== location.hash) history.replaceState(null, "", hash || location.pathname);
  }

  function recall() {
    if (!location.hash.includes("=")) {
      // A link to a row of this page, which may not be among those that were found.
      if (location.hash.startsWith("#row-") && !isPlain(wanted())) {
        form.reset();
        plain();
        location.replace(location.href);
      }
      return;
    }
    const given = new URLSearchParams(location.hash.slice(1));
    for (const field of form.querySelectorAll("[name]")) {
      const name = field.name;
      field.value = given.get(name) ?? "";
      if (field.selectedIndex === -1 || (name === "sort" && !field.value)) field.selectedIndex = 0;
    }
    update();
    gallery.scrollIntoView();
  }

  // ---- Two videos of the gallery side by side

  const dialog = document.querySelector("dialog");
  const choice = gallery.querySelector(".chosen");
  const chosen = new Map();

  function choose(card) {
    // A copy of a video would not stop with the others.
    stopAll();
    if (chosen.has(card.id)) chosen.delete(card.id);
    else chosen.set(card.id, card.cloneNode(true));
    if (chosen.size === 2) sideBySide();
    markChosen();
  }

  function markChosen() {
    for (const button of cards.querySelectorAll("[data-choose]")) {
      button.setAttribute("aria-pressed", chosen.has(button.closest("article").id));
    }
    if (choice) choice.textContent = chosen.size ? "1 video is chosen. Choose another one to see both side by side." : "";
  }

  function sideBySide() {
    const sides = [...chosen.values()];
    for (const side of sides) {
      side.setAttribute("aria-label", side.querySelector(".prompt").textContent);
      side.removeAttribute("aria-labelledby");
      side.querySelector("[data-choose]").remove();
      for (const element of [side, ...side.querySelectorAll("[id]")]) element.removeAttribute("id");
    }
    dialog.querySelector(".sides").replaceChildren(...sides);
    chosen.clear();
    dialog.showModal();
  }

  if (dialog) {
    cards.addEventListener("click", (event) => {
      const button = event.target instanceof Element ? event.target.closest("[data-choose]") : null;
      if (button) choose(button.closest("article"));
    });
    dialog.addEventListener("close", stopAll);
  }

  if (form) {
    form.hidden = false;
    let waiting = 0;
    form.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => { shownAt = 0; update(); }, 150);
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => { clearTimeout(waiting); setTimeout(() => { shownAt = 0; update(); }); });
    addEventListener("hashchange", recall);
    recall();
  }

  return { give: (name, answer) => answers.set(name, answer) };
})();
