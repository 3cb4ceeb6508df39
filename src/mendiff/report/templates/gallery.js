(() => {
  "use strict";
  const byId = id => document.getElementById(id);
  const list = byId("rows");
  const rows = [...list.children];
  const onPaper = Number(list.dataset.onPaper);
  const allVerdicts = [...document.querySelectorAll("button[data-verdict]")];
  const selects = [...document.querySelectorAll("select[data-choice]")];
  const choice = { verdict: "", category: "", type: "", sort: "errors" };
  const press = (button, on) => button.setAttribute("aria-pressed", String(on));
  let visible = rows;

  // ---- pictures: decoded when a row comes near the viewport

  const picturesOf = row => {
    if (row.pictures) return row.pictures;
    const block = byId(`pictures-${row.dataset.index}`);
    if (block) return (row.pictures = JSON.parse(block.textContent));
    const found = {};
    row.querySelectorAll("figure[data-kind]").forEach(figure => {
      const [picture, contour] = figure.querySelectorAll("img");
      if (picture && figure.dataset.kind !== "marked") found[figure.dataset.kind] = picture.src;
      if (contour) found.contour = contour.src;
    });
    return found.input ? (row.pictures = found) : null;
  };

  const image = (url, alt, over) => {
    const made = new Image();
    made.src = url;
    made.alt = alt;
    made.decoding = "async";
    if (over) made.className = "over";
    return made;
  };

  const fill = row => {
    if (row.querySelector("img")) return true;
    const pictures = picturesOf(row);
    if (!pictures) return false;
    row.querySelectorAll("figure[data-kind]").forEach(figure => {
      const kind = figure.dataset.kind;
      const alt = `${row.dataset.name}: ${figure.querySelector("figcaption").textContent}`;
      const frame = figure.querySelector(".frame");
      frame.append(image(pictures[kind === "marked" ? "input" : kind], alt));
      if (kind === "marked") frame.append(image(pictures.contour, "", true));
    });
    return true;
  };

  const nearby = new IntersectionObserver(
    seen => seen.forEach(one => { if (one.isIntersecting && fill(one.target)) nearby.unobserve(one.target); }),
    { rootMargin: "1200px 0px" },
  );

  // ---- filtering and sorting

  const { compare } = new Intl.Collator("en", { numeric: true });
  const byName = (a, b) => compare(a.dataset.name, b.dataset.name);
  const orders = {
    "errors": (a, b) => a.dataset.index - b.dataset.index,
    "-score": (a, b) => b.dataset.score - a.dataset.score || byName(a, b),
    "score": (a, b) => a.dataset.score - b.dataset.score || byName(a, b),
    "margin": (a, b) => Math.abs(a.dataset.margin) - Math.abs(b.dataset.margin) || byName(a, b),
    "name": byName,
  };
  const fits = (row, key) => !choice[key] || row.dataset[key] === choice[key];

  const arrange = () => {
    stop();
    const rest = rows.filter(row => fits(row, "category") && fits(row, "type"));
    allVerdicts.forEach(button => {
      const kind = button.dataset.verdict;
      const count = rest.filter(row => !kind || row.dataset.verdict === kind).length;
      press(button, kind === choice.verdict);
      button.querySelector(".num").textContent = count;
    });
    visible = rest.filter(row => fits(row, "verdict")).sort(orders[choice.sort]);
    const chosen = new Set(visible);
    rows.forEach(row => { row.hidden = !chosen.has(row); });
    visible.forEach((row, place) => row.classList.toggle("later", place >= onPaper));
    list.append(...visible);
    visible.slice(0, onPaper).forEach(fill);
    byId("told").textContent = `${visible.length} of ${rows.length} images.`;
    byId("cut").textContent = visible.length > onPaper
      ? `On paper: the first ${onPaper} of ${visible.length} chosen images.` : "";
    byId("empty").hidden = visible.length > 0;
  };

  const choose = (key, value) => {
    choice[key] = value;
    selects.filter(one => one.dataset.choice === key).forEach(one => { one.value = value; });
  };

  allVerdicts.forEach(button => button.addEventListener("click", () => {
    choose("verdict", button.dataset.verdict);
    arrange();
  }));
  selects.forEach(select => select.addEventListener("change", () => {
    choose(select.dataset.choice, select.value);
    arrange();
  }));
  // Numbers in the tables link to the images that they count.
  document.querySelectorAll("a[data-show-verdict]").forEach(link => link.addEventListener("click", () => {
    choose("verdict", link.dataset.showVerdict);
    choose("category", link.dataset.showCategory ?? "");
    choose("type", link.dataset.showType ?? "");
    arrange();
  }));
  document.querySelectorAll('a[href^="#category-"]').forEach(link => link.addEventListener("click", () => {
    byId(link.hash.slice(1)).open = true;
  }));

  // ---- blinking between input and reconstruction

  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let blinking = null;
  const stop = () => {
    if (!blinking) return;
    clearInterval(blinking.timer);
    press(blinking.button, false);
    blinking.show(false);
    blinking = null;
  };
  const blink = (button, show) => {
    const again = blinking?.button === button;
    stop();
    if (again) return;
    press(button, true);
    show(true);
    let on = true;
    // With reduced motion, each press of the button swaps the pictures once.
    const timer = still.matches ? 0 : setInterval(() => show(on = !on), 700);
    blinking = { button, show, timer };
  };
  const blinkRow = row => {
    if (!fill(row)) return;
    const figure = row.querySelector('figure[data-kind="input"]');
    const frame = figure.querySelector(".frame");
    blink(row.querySelector('[data-do="blink"]'), on => {
      frame.querySelector(".over")?.remove();
      if (on) frame.append(image(row.pictures?.reconstruction ?? picturesOf(row).reconstruction, "", true));
      figure.querySelector("figcaption").textContent = on ? "reconstruction" : "input";
      figure.classList.toggle("swapped", on);
    });
  };

  // ---- enlarged image

  const viewer = byId("viewer");
  const stage = viewer.querySelector(".stage");
  const tool = name => viewer.querySelector(`[data-do="${name}"]`);
  let row = null;
  let outlined = false;
  const show = kind => {
    byId("viewer-picture").src = picturesOf(row)[kind];
    byId("viewer-picture").alt = `${row.dataset.name}: ${tool(kind).firstChild.textContent.trim()}`;
    ["input", "reconstruction", "heat"].forEach(one => press(tool(one), one === kind));
  };
  const look = (next, kind) => {
    if (!next || !picturesOf(next)) return;
    stop();
    row = next;
    const { contour } = picturesOf(row);
    const place = visible.indexOf(row);
    stage.style.setProperty("--ratio", row.querySelector(".pictures").style.getPropertyValue("--ratio"));
    byId("viewer-name").textContent = row.dataset.name;
    const [score, threshold] = [...row.querySelector(".score").children].map(one => one.textContent);
    byId("viewer-facts").textContent =
      `${place + 1} of ${visible.length}: ${row.dataset.verdict}, score ${score}, ${threshold}`;
    byId("viewer-contour").src = contour ?? "";
    byId("viewer-contour").hidden = !contour || !outlined;
    tool("outline").disabled = !contour;
    tool("previous").disabled = place === 0;
    tool("next").disabled = place === visible.length - 1;
    show(kind);
  };
  const actions = {
    input: () => { stop(); show("input"); },
    reconstruction: () => { stop(); show("reconstruction"); },
    heat: () => { stop(); show("heat"); },
    blink: () => blink(tool("blink"), on => show(on ? "reconstruction" : "input")),
    outline: () => {
      outlined = !outlined;
      press(tool("outline"), outlined);
      byId("viewer-contour").hidden = !outlined || tool("outline").disabled;
    },
    previous: () => look(visible[visible.indexOf(row) - 1], "input"),
    next: () => look(visible[visible.indexOf(row) + 1], "input"),
    close: () => viewer.close(),
  };
  const enlarge = (which, kind = "input") => {
    look(which, kind);
    if (row === which) viewer.showModal();
  };
  const keys = { 1: "input", 2: "reconstruction", 3: "heat", o: "outline", b: "blink", ArrowLeft: "previous", ArrowRight: "next" };
  viewer.addEventListener("click", event => {
    actions[event.target.closest("[data-do]")?.dataset.do]?.();
    if (event.target === viewer) viewer.close();
  });
  viewer.addEventListener("keydown", event => {
    const name = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!name || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    actions[name]();
  });
  viewer.addEventListener("close", () => {
    stop();
    row.scrollIntoView({ block: "nearest" });
    row.querySelector('[data-do="enlarge"]').focus();
  });

  // ---- the list: pointer and keyboard

  list.addEventListener("click", event => {
    const which = event.target.closest(".row");
    const figure = event.target.closest("figure[data-kind]");
    const name = event.target.closest("[data-do]")?.dataset.do;
    if (name === "blink") blinkRow(which);
    if (name === "enlarge") enlarge(which);
    if (figure) enlarge(which, figure.dataset.kind === "marked" ? "input" : figure.dataset.kind);
  });
  list.addEventListener("keydown", event => {
    const which = event.target.closest(".row");
    const key = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey || event.altKey || !"bjkl".includes(key)) return;
    if (key === "b") blinkRow(which);
    if (key === "l") enlarge(which);
    const next = { j: 1, k: -1 }[key];
    if (next) visible[visible.indexOf(which) + next]?.querySelector('[data-do="blink"]').focus();
  });

  // ---- printing: unfold everything

  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach(one => { one.open = true; });
  });
  addEventListener("afterprint", () => folded.forEach(one => { one.open = false; }));

  arrange();
  rows.forEach(one => nearby.observe(one));
  // The pictures are after this script, so that the page responds before all of them are loaded.
  addEventListener("DOMContentLoaded", () => rows.forEach(one => { nearby.unobserve(one); nearby.observe(one); }));
})();
