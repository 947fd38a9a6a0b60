// The search page: ranks the entries of searchindex.js, which _ext/searching.py writes, for ?q=.
// Sphinx has a file of this name; ours takes its place, because the theme's page loads that name.
// Stemmer and stopwords come from Sphinx's language_data.js.
(() => {
  const SHOWN = 12; // pages
  const MORE = 3; // further entries of a page

  // A query's words; Words.query in _ext/searching.py does the same to names.
  const words = (query) => {
    const { same } = window.dpoSearch;
    const text = same.reduce((text, [pattern, word]) => text.replace(
      new RegExp(pattern, "gu"),
      (...found) => ` ${word}${found.slice(1, -2).filter(Boolean).join("")} `,
    ), query.toLowerCase().replaceAll("isation", "ization"));
    const stemmer = new Stemmer();
    return (text.match(/\d+(?:\.\d+)+|[\p{L}\p{N}_]+/gu) ?? [])
      .filter((word) => !stopwords.includes(word))
      .map((word) => (/^[\x00-\x7f]+$/.test(word) ? stemmer.stemWord(word) : word))
      .filter(Boolean);
  };

  // Whether one letter more, less, other or exchanged makes one word the other.
  const isSlip = (a, b) => {
    let i = 0;
    while (i < a.length && a[i] === b[i]) i += 1;
    const rests = [[1, 0], [0, 1], [1, 1]].map(([x, y]) => a.slice(i + x) === b.slice(i + y));
    const turned = a[i] === b[i + 1] && a[i + 1] === b[i] && a.slice(i + 2) === b.slice(i + 2);
    return rests.includes(true) || turned;
  };

  // The words of the index that a word stands for: itself, else what begins so, else a slip.
  const meant = (word) => {
    const known = window.dpoSearch.words;
    if (Object.hasOwn(known, word) && /^[\x00-\x7f]+$/.test(word)) return [word];
    const begin = Object.keys(known).filter((other) => other.startsWith(word));
    if (begin.length || word.length < 5) return begin;
    return Object.keys(known).filter((other) => isSlip(word, other));
  };

  // The entries that have a word, with its weight: "2kF" is 92 entries on, weight F, 5 of 8.
  const having = (word) => {
    let entry = 0;
    return [...window.dpoSearch.words[word].matchAll(/([0-9a-z]+)([A-I])/g)].map((found) => {
      entry += parseInt(found[1], 36);
      return [entry, (found[2].charCodeAt(0) - 65) / 8];
    });
  };

  // Entry number -> score: the rarer a word the more it counts, and the more of the query is there.
  const scores = (terms) => {
    const total = window.dpoSearch.entries.length;
    const found = new Map();
    let all = 0;
    for (const term of terms) {
      const best = new Map();
      for (const word of meant(term)) {
        for (const [entry, weight] of having(word)) {
          best.set(entry, Math.max(weight, best.get(entry) ?? 0));
        }
      }
      const rare = best.size && Math.log(1 + total / best.size);
      all += rare;
      for (const [entry, weight] of best) {
        const [score, part] = found.get(entry) ?? [0, 0];
        found.set(entry, [score + rare * weight, part + rare]);
      }
    }
    return new Map([...found].map(([entry, [score, part]]) => [entry, score * (part / all) ** 2]));
  };

  // Pages with their entries, best first: what has the query for a name, then by score, to which
  // a page's second entry adds, for a page that speaks of it twice is rather about it.
  const ranked = (query) => {
    const { entries, names, pages } = window.dpoSearch;
    const terms = [...new Set(words(query))];
    const found = scores(terms);
    const name = words(query).join(" ");
    if (Object.hasOwn(names, name)) found.set(names[name], Infinity);
    const byPage = new Map();
    for (const [entry, score] of [...found].sort((a, b) => b[1] - a[1] || a[0] - b[0])) {
      const page = entries[entry][0];
      if (!byPage.has(page)) byPage.set(page, { page, score, entries: [] });
      const result = byPage.get(page);
      if (result.entries.length === 1) result.score += score / 3;
      result.entries.push({ entry, score });
    }
    const last = (result) => pages[result.page][2];
    return [...byPage.values()].sort((a, b) => last(a) - last(b) || b.score - a.score);
  };

  const link = (entry, words) => {
    const [page, anchor] = window.dpoSearch.entries[entry];
    const made = document.createElement("a");
    made.href = window.dpoSearch.pages[page][0] + (anchor && `#${anchor}`);
    made.textContent = words;
    return made;
  };

  // A member of the library has no title but its address.
  const titleOf = (entry) => {
    const [, anchor, title] = window.dpoSearch.entries[entry];
    return title || anchor.replace("dpo_lib.", "");
  };

  const line = (...parts) => {
    const made = document.createElement("p");
    made.append(...parts);
    return made;
  };

  const item = ({ page, entries: [first, ...others] }) => {
    const [, anchor, , excerpt] = window.dpoSearch.entries[first.entry];
    const title = window.dpoSearch.pages[page][1];
    const made = document.createElement("li");
    made.append(link(first.entry, anchor ? `${title} › ${titleOf(first.entry)}` : title));
    if (excerpt) made.append(line(excerpt));
    const also = others.slice(0, MORE).filter(({ score }) => score > 0.7 * others[0].score)
      .flatMap(({ entry }, k) => [k ? " · " : "also there: ", link(entry, titleOf(entry))]);
    if (also.length) made.append(line(...also));
    return made;
  };

  const show = (query, status, list) => {
    const results = query.trim() ? ranked(query) : [];
    list.replaceChildren(...results.slice(0, SHOWN).map(item));
    const count = Math.min(SHOWN, results.length), pages = count > 1 ? "pages" : "page";
    if (!query.trim()) status.textContent = "";
    else if (count) status.textContent = `“${query}”: ${count} ${pages}, best first`;
    else status.textContent = `“${query}”: nothing found. Fewer or other words may help.`;
  };

  addEventListener("DOMContentLoaded", () => {
    const out = document.getElementById("search-results");
    const status = document.createElement("p"), list = document.createElement("ol");
    status.className = "search-summary";
    status.setAttribute("role", "status");
    list.className = "search";
    out.append(status, list);
    const query = new URLSearchParams(location.search).get("q") ?? "";
    document.querySelectorAll('input[name="q"]').forEach((input) => {
      input.value = query;
      if (!input.closest("main")) return;
      input.addEventListener("input", () => {
        history.replaceState(null, "", `?q=${encodeURIComponent(input.value)}`);
        show(input.value, status, list);
      });
    });
    show(query, status, list);
  });
})();
