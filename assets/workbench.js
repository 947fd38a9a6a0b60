// A world of the reader's own: every .dpo-workbench becomes an instrument. Each of its parts is an
// element and a `draw(state, world)`; whatever changes the state lets all of them draw again.
(() => {
  const { sum, table, sigmoid, world: solved } = window.dpoForms;
  const { shown, shownExp, problem, python, sentence } = window.dpoWords;
  const { VIEWS, make, grid, number, ...inputs } = window.dpoInputs;
  const KEYS = ["rewards", "ref", "beta", "names", "wins", "view"];

  // From the attributes of the page, or an address, to a state.
  const listed = (text) => text.split(",").map(number);
  const unnamed = (size) => Array.from({ length: size }, (_, k) => `answer ${k + 1}`);

  const read = (values, before) => {
    const told = (key, parse) => (values[key] === undefined ? undefined : parse(values[key]));
    const reward = told("rewards", listed) ?? before.reward;
    const size = reward.length, same = size === before?.names.length;
    const names = unnamed(size).map((name, i) => before?.names[i] ?? name);
    return {
      reward,
      ref: told("ref", listed) ?? (same ? before.ref : Array(size).fill(1 / size)),
      beta: told("beta", number) ?? before?.beta ?? 1,
      names: told("names", (text) => text.split(",")) ?? names,
      wins: told("wins", (text) => text.split(";").map(listed)) ?? ((same && before.wins) || null),
      view: VIEWS[values.view] ? values.view : before?.view ?? "optimum",
    };
  };

  const told = ({ reward, ref, beta, names, wins, view }) => {
    const brief = (values) => values.map((value) => Number(value.toPrecision(6))).join(",");
    const values = { rewards: brief(reward), ref: brief(ref), beta: brief([beta]),
      names: names.join(","), view };
    return wins ? { ...values, wins: wins.map(brief).join(";") } : values;
  };

  // What every state must have: a view that can be drawn, and labels where they are looked at.
  const whole = (state) => {
    const { reward, view } = state, size = reward.length;
    if (view === "fibre" && size !== 3) state.view = "optimum";
    if (view === "loss" && !state.wins)
      state.wins = table(size, (i, j) =>
        i === j ? 0 : Math.floor(10 * sigmoid(reward[i] - reward[j]) + 0.5));
    return state;
  };

  const pictures = () => {
    const element = make("div", { class: "dpo-pictures" });
    let drawn = [], kind = "";
    const draw = (state, world) => {
      const wanted = `${state.view} ${state.names.length}`;
      if (kind !== wanted) {
        drawn = window.dpoPictures.of(state.view, state.names.length);
        element.replaceChildren(...drawn.map((picture) => picture.element));
        element.dataset.view = state.view;
        kind = wanted;
      }
      drawn.forEach((picture) => picture.draw(state, world));
    };
    return { element, draw };
  };

  // The texts of a fresh tree, put into an old one of the same form: far quicker than new elements.
  const texts = (element) => {
    const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT), found = [];
    while (walker.nextNode()) found.push(walker.currentNode);
    return found;
  };
  const refill = (element, fresh) => {
    const now = fresh.flatMap(texts);
    texts(element).forEach((text, i) => {
      if (text.data !== now[i].data) text.data = now[i].data;
    });
  };

  const numbers = () => {
    const element = make("div", { class: "dpo-numbers" });
    let form = "";
    const columns = ({ reward, view }, world) => {
      const exp = (logs) => logs.map(Math.exp);
      const found = { reward, reference: exp(world.logRef), "optimum (4)": exp(world.logPolicy),
        "implicit (5)": world.implicit };
      if (view !== "loss") return { ...found, shift: world.shift };
      const known = world.fit?.attained && world.fit.determined;
      return known ? { ...found, "smallest loss": exp(world.fit.logPolicy) } : found;
    };
    const draw = (state, world) => {
      const { names, beta, view } = state, found = columns(state, world);
      const rows = names.map((_, i) => Object.values(found).map((column) => shown(column[i])));
      const said = { Z: shownExp(world.logZ), "log Z": shown(world.logZ),
        "β log Z": shown(beta * world.logZ), "expected reward": shown(world.expected),
        "KL to the reference": shown(world.kl), "objective (3)": shown(world.objective) };
      if (view === "loss" && world.fit)
        Object.assign(said, { "DPO loss (7) here": shown(world.loss),
          "smallest loss": shown(world.fit.loss) });
      const list = Object.entries(said).map(([term, value]) =>
        make("div", {}, make("dt", {}, term), make("dd", {}, value)));
      const pairs = view !== "preferences" ? [] : [["preferences", "by rewards, σ(r − r′)"],
        ["policyPreferences", "by policies, (6)"]].map(([key, words]) =>
        grid([words, ...names], names, world[key].map((row) => row.map(shown))));
      const fresh = [grid(["answer", ...Object.keys(found)], names, rows),
        make("dl", {}, ...list), make("div", { class: "dpo-pairs" }, ...pairs)];
      const wanted = [view, ...names, ...Object.keys(found), ...Object.keys(said)].join("\n");
      if (form === wanted) return refill(element, fresh);
      form = wanted;
      element.replaceChildren(...fresh);
    };
    return { element, draw };
  };

  const buttons = (get, reset) => {
    const copy = make("button", { type: "button" }, "Copy as Python");
    const back = make("button", { type: "button" }, "Start again");
    const code = make("pre", { hidden: true, tabIndex: 0 });
    const said = make("span", { class: "dpo-said" });
    said.setAttribute("role", "status");
    code.setAttribute("aria-label", "This world in Python");
    copy.addEventListener("click", async () => {
      code.textContent = python(get(), solved(get()));
      code.hidden = false;
      try {
        await navigator.clipboard.writeText(code.textContent);
        said.textContent = "Copied.";
      } catch { // a page from disk may not
        said.textContent = "Select the lines below and copy them.";
      }
    });
    back.addEventListener("click", reset);
    const draw = () => {
      code.hidden = true;
      said.textContent = "";
    };
    return { element: make("div", { class: "dpo-buttons" }, copy, back, said, code), draw };
  };

  // In which direction the reward went, for the view that shows its fibre.
  const journey = (before, after, from, to) => {
    const same = (key) => String(before[key]) === String(after[key]);
    if (after.view !== "fibre" || !same("ref") || !same("beta") || same("reward")) return "";
    const by = after.reward.map((r, i) => r - before.reward[i]);
    if (by.every((step) => Math.abs(step - by[0]) < 1e-9))
      return " It was moved along its fibre: the policy stayed where it is.";
    const walked = sum(to.map((logp, i) => Math.abs(Math.exp(logp) - Math.exp(from[i])))) / 2;
    return ` It was moved to another fibre: the policy walked, by ${shown(walked)} in total variation.`;
  };

  const mount = (root) => {
    const start = whole(read(root.dataset));
    const own = root.querySelector(".dpo-number")?.id ?? "";
    const said = root.querySelector(".dpo-sentence");
    let state = start, world = solved(state), timer = 0;

    const draw = (suffix = "") => {
      parts.forEach((part) => part.draw(state, world));
      said.textContent = sentence[state.view](state, world) + suffix;
    };
    const set = (next, input) => {
      const wrong = problem(next);
      input?.setAttribute("aria-invalid", wrong !== "");
      if (wrong) return void (said.textContent = wrong);
      const before = state, { logPolicy } = world;
      state = whole(next);
      world = solved(state);
      draw(before.names.length === state.names.length
        ? journey(before, state, logPolicy, world.logPolicy) : "");
    };
    const change = (part, input) => {
      set({ ...state, ...part }, input);
      clearTimeout(timer); // browsers refuse an address that changes at every step of a drag
      timer = setTimeout(() => window.dpoAddress?.write(own, told(state)), 300);
    };

    const get = () => state;
    const choice = inputs.views(change), seen = pictures(), counted = numbers();
    const typed = [inputs.answers(get, change), inputs.temperature(change),
      inputs.fibreDial(get, change), inputs.winTable(get, change)];
    const below = buttons(get, () => change(start));
    const parts = [choice, seen, ...typed, counted, below];
    root.querySelectorAll(":scope > :not(.dpo-title, .dpo-sentence)").forEach((old) => old.remove());
    said.before(choice.element, seen.element);
    said.after(make("div", { class: "dpo-inputs" }, ...typed.map((part) => part.element)),
      counted.element, below.element);
    draw();

    window.dpoAddress?.follow(({ id, values }) => {
      if ((id && id !== own) || !KEYS.some((key) => key in values)) return [];
      set(read(values, state));
      return [root];
    });
  };

  addEventListener("DOMContentLoaded", () =>
    document.querySelectorAll(".dpo-workbench").forEach(mount));
})();
