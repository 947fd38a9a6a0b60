// The state of what moves on a page, in the page's address: #beta=0.3 for whatever has a beta,
// #fig-5-2&beta=0.3 for one figure. A link in the text sets it; moving a figure writes it.
window.dpoAddress = (() => {
  const read = () => {
    const parts = decodeURIComponent(location.hash.slice(1)).split("&");
    const id = parts[0].includes("=") ? "" : parts.shift();
    const pairs = parts.filter((part) => part.includes("=")).map((part) => part.split("=", 2));
    return { id, values: Object.fromEntries(pairs) };
  };

  // replaceState: the back button leads to the page before, not through every position.
  const write = (id, values) => {
    const pairs = Object.entries(values).map(([name, value]) => `${name}=${value}`);
    history.replaceState(null, "", `#${[id, ...pairs].filter(Boolean).join("&")}`);
  };

  // Calls `set({ id, values })` for the address that the page was opened with, and for each link.
  const follow = (set) => {
    const now = () => {
      const state = read();
      if (Object.keys(state.values).length) set(state);
    };
    addEventListener("hashchange", now);
    now();
  };
  return { read, write, follow };
})();
