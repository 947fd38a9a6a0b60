// An equation that is wider than its column is broken as a mathematician breaks it: each statement
// on a line of its own, before relations, before + and - outside brackets, then inside them. Of
// all ways the one with the fewest lines and the least loss of size is taken. What nothing can
// break is drawn smaller, down to three quarters, and then scrolls.
(() => {
  const STATEMENT = new Set(["\\qquad", "\\iff", "\\Longrightarrow"]);
  const RELATION = new Set(["=", "\\le", "\\ge", "\\approx"]);
  const OPERATOR = new Set(["+", "-", "\\cdot"]);
  const OPENING = new Set(["(", "[", "\\langle"]), CLOSING = new Set([")", "]", "\\rangle"]);
  const SPACE = /^(\s|\\[,;!: ]|\\q?quad)$/;
  const SMALLEST = 0.75;
  const SIZE_FOR_A_LINE = 8; // an eighth of its size is worth one line
  const INDENT = 4.6; // ex of a \qquad

  // Where a line may end: before which character, before what, in how many brackets.
  const places = (tex) => {
    const found = [];
    let closed = 0, depth = 0, last = "";
    for (const { 0: token, index: at } of tex.matchAll(/\\[a-zA-Z]+|\\.|[^\\]/gs)) {
      if (["{", "\\begin", "\\left"].includes(token)) closed++;
      if (["}", "\\end", "\\right"].includes(token)) closed--;
      if (!closed) {
        if (OPENING.has(token)) depth++;
        if (CLOSING.has(token)) depth--;
        const inside = !["", "^", "_", "(", "[", ","].includes(last)
          && !RELATION.has(last) && !OPERATOR.has(last);
        const add = (kind) => found.push({ kind, depth, at });
        const pause = token === "\\quad" && last === ",";
        if (!depth && (STATEMENT.has(token) || pause)) add("statement");
        else if (!depth && RELATION.has(token) && last) add("relation");
        else if (OPERATOR.has(token) && inside) add("operator");
        else if ((token === "\\," && inside) || (token === "\\ " && last === ",")) add("factor");
        else if (last === "[") add("bracket");
      }
      if (!SPACE.test(token)) last = token;
    }
    return found;
  };

  const tidy = (tex) => tex.replace(/^(\\q?quad|\\[,; ]|\s)+|(\\q?quad|\\[,; ]|\s)+$/g, "");

  const split = (tex, kind, depth = 0) => {
    const cuts = places(tex).filter((p) => p.kind === kind && p.depth === depth).map((p) => p.at);
    return [0, ...cuts].map((from, k) => tex.slice(from, cuts[k])).filter(tidy);
  };

  const widths = new Map();
  const width = (tex, display = true) => { // in ex
    const key = `${display} ${tex}`;
    if (!widths.has(key)) {
      const svg = MathJax.tex2svg(tex, { display }).querySelector("svg");
      widths.set(key, parseFloat(svg.getAttribute("width")));
    }
    return widths.get(key);
  };

  const LEVELS = [0, 1, 2].flatMap((depth) => [["operator", depth], ["factor", depth]]);
  LEVELS.push(["bracket", 1]);

  // Lines of at most `room`, as few as can be; what can be broken nowhere stays too wide.
  const fill = (tex, room, level = 0) => {
    if (width(tex) <= room || level === LEVELS.length) return [tex];
    const lines = [];
    split(tex, ...LEVELS[level]).forEach((part) => {
      const left = room - (lines.length > 1 ? INDENT : 0);
      const longer = (lines.at(-1) ?? "") + part;
      if (width(longer) <= left) lines[Math.max(0, lines.length - 1)] = longer;
      else if (width(part) <= room - INDENT) lines.push(part);
      else lines.push(...fill((lines.pop() ?? "") + part, left, level + 1));
    });
    return lines;
  };

  const continued = ([first, ...rest], before) => [
    before + first,
    ...rest.map((line) => `&\\qquad {}${tidy(line)}`),
  ];

  // `a &= b \\ &= c`: all statements aligned at their relations.
  const atRelations = (parts, room) => {
    const left = Math.max(...parts.map(([side]) => width(side)));
    return parts.flatMap(([side, ...others]) =>
      others.flatMap((other, k) => continued(fill(other, room - left), k ? "&" : `${side}&`)));
  };

  // The left side on a line of its own, what follows indented.
  const atTheLeft = (parts, room) =>
    parts.flatMap(([side, ...others]) => [
      ...continued(fill(side, room), "&"),
      ...others.flatMap((other) => continued(fill(other, room - INDENT / 2), "&\\quad ")),
    ]);

  const cost = ({ tex, lines }, room) => {
    const size = Math.min(1, room / width(tex));
    const torn = lines.filter((line) => /^&\\qquad \{\}(?![-+]|\\cdot)/.test(line)).length;
    const tiny = Math.max(0, SMALLEST - size);
    return lines.length + torn / 2 + SIZE_FOR_A_LINE * (1 - size) + 1000 * tiny;
  };

  // The TeX of an equation for a column of so many ex; the same TeX where it fits.
  const broken = (tex, room) => {
    if (width(tex) <= room) return tex;
    const parts = split(tex, "statement").map((one) => split(tidy(one), "relation").map(tidy));
    const layouts = [parts.map((part) => `&${part.join(" ")}`)];
    for (const wide of [room, room / 0.9]) {
      if (parts.every((part) => part.length > 1)) layouts.push(atRelations(parts, wide));
      layouts.push(atTheLeft(parts, wide));
    }
    const made = layouts.map((lines) => ({
      tex: `\\begin{aligned}${lines.join("\\\\")}\\end{aligned}`,
      lines,
    }));
    made.unshift({ tex, lines: [tex] });
    return made.reduce((a, b) => (cost(b, room) < cost(a, room) ? b : a)).tex;
  };

  // Drawn for a column of so many ex; the style sheet lets it shrink.
  const draw = (tex, room) => {
    const made = broken(tex, room);
    const box = MathJax.tex2svg(made, { display: true });
    box.querySelector("svg").style.minWidth = `${SMALLEST * width(made)}ex`;
    return box;
  };

  // A formula in the text ends a line after a relation or a sign, as TeX does it.
  const SIGN = /^(=|\\le|\\ge|\\approx|\\iff|\\Longrightarrow|[-+]|\\cdot)(?![a-zA-Z])\s*/;
  const pieces = (tex) => {
    const cut = ["statement", "relation", "operator"]
      .reduce((parts, kind) => parts.flatMap((part) => split(part, kind)), [tex]);
    const signs = cut.map((part, k) => (k && part.match(SIGN)?.[0]) || "");
    return cut.map((part, k) =>
      part.slice(signs[k].length) + (signs[k + 1] ? `${signs[k + 1]}{}` : ""));
  };

  const pixelsInEx = () => {
    const probe = document.createElement("div");
    probe.style.width = "100ex";
    document.body.append(probe);
    const width = probe.getBoundingClientRect().width;
    probe.remove();
    return width / 100;
  };

  window.dpoBreaks = { broken, draw, pieces, pixelsInEx, width };
})();
