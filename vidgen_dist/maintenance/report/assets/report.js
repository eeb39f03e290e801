// Plays videos, and filters and sorts the gallery. Without it, every page shows its rows, and a video opens by its link.
"use strict";

const vidgenReport = (() => {
  const gallery = document.getElementById("gallery");
  const cards = document.getElementById("cards");
  const root = gallery.dataset.root;
  const here = gallery.dataset.here;
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

  function play(link) {
    if (playing.has(link)) return;
    const video = document.createElement("video");
    Object.assign(video, { src: link.href, muted: true, loop: true, playsInline: true });
    video.setAttribute("aria-hidden", "true");
    video.addEventListener("playing", () => link.classList.add("playing"));
    playing.set(link, video);
    link.append(video);
    // It was taken away before it could play, or the browser cannot play it: the poster stays.
    video.play().catch(() => {});
  }

  function stop(link) {
    const video = playing.get(link);
    if (!video) return;
    playing.delete(link);
    link.classList.remove("playing");
    video.pause();
    video.removeAttribute("src");
    video.load();
    video.remove();
  }

  const linkOf = (event) => (event.target instanceof Element ? event.target.closest("a[data-video]") : null);

  function startBy(event) {
    const link = linkOf(event);
    if (link && !keepsStill.matches && event.pointerType !== "touch") play(link);
  }

  function endBy(event) {
    const link = linkOf(event);
    if (!link || (event.relatedTarget instanceof Node && link.contains(event.relatedTarget))) return;
    // A finger leaves with each tap.
    if (event.pointerType === "touch") return;
    if (event.type === "pointerout" && link.matches(":focus-visible")) return;
    if (event.type === "focusout" && link.matches(":hover")) return;
    stop(link);
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
    const link = linkOf(event);
    // A finger cannot hover: a tap plays and stops. A link that is opened in another tab is left alone.
    if (!link || lastPointer !== "touch" || event.detail === 0 || keepsStill.matches) return;
    event.preventDefault();
    const was = playing.has(link);
    [...playing.keys()].forEach(stop);
    if (!was) play(link);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") [...playing.keys()].forEach(stop);
  });

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
    const given = new FormData(form);
    return { q: given.get("q").trim(), status: given.get("status"), flag: given.get("flag"), sort: given.get("sort") };
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
    cards.replaceChildren(...ownCards);
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
    [...playing.keys()].forEach(stop);
    cards.replaceChildren(...some.map(placed));
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
    for (const name of ["q", "status", "flag", "sort"]) {
      const field = form.elements[name];
      field.value = given.get(name) ?? "";
      if (field.selectedIndex === -1 || (name === "sort" && !field.value)) field.selectedIndex = 0;
    }
    update();
    gallery.scrollIntoView();
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
