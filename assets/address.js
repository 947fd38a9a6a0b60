// The state of what moves on a page, in the page's address: #beta=0.3 for whatever has a beta,
// #fig-5-2&beta=0.3 for one figure. A link in the text sets it; moving a figure writes it.
window.dpoAddress = (() => {
  const decoded = (text) => {
    try {
      return decodeURIComponent(text);
    } catch { // "20% flipped" typed by hand
      return text;
    }
  };
  const read = () => {
    const parts = location.hash.slice(1).split("&");
    const id = parts[0].includes("=") ? "" : decoded(parts.shift());
    const pairs = parts.filter((part) => part.includes("=")).map((part) => part.split("=", 2));
    return { id, values: Object.fromEntries(pairs.map((pair) => pair.map(decoded))) };
  };
  const encoded = (value) => String(value).replace(/[%&=#]/g, encodeURIComponent); // legible else

  // replaceState: the back button leads to the page before, not through every position.
  const write = (id, values) => {
    const pairs = Object.entries(values).map(([name, value]) => `${name}=${encoded(value)}`);
    history.replaceState(null, "", `#${[id, ...pairs].filter(Boolean).join("&")}`);
  };

  // The page moves until its mathematics is set; only then is a figure where it will stay.
  const settled = new Promise((done) => addEventListener("load", done)).then(
    () => window.MathJax?.startup?.promise);
  const away = (element) => Math.abs(element.getBoundingClientRect().top);
  let moved = []; // by one address, whoever follows it: the nearest is brought into sight

  const bring = async () => {
    await settled;
    const unfolded = moved.filter((element) => element.getClientRects().length);
    const [nearest] = unfolded.length ? unfolded.sort((a, b) => away(a) - away(b)) : moved;
    moved = [];
    if (nearest) window.dpoReveal(nearest, { block: "nearest" });
  };

  // Calls `set({ id, values })` for the address that the page was opened with, and for each link;
  // it returns the elements that moved.
  const follow = (set) => {
    const now = () => {
      const state = read();
      if (Object.keys(state.values).length === 0) return;
      moved.push(...set(state));
      bring();
    };
    addEventListener("hashchange", now);
    now();
  };
  return { read, write, follow };
})();
