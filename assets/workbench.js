// A world of the reader's own: every .dpo-workbench becomes an instrument. Each of its parts is an
// element and a `draw(state, world)`; whatever changes the state lets all of them draw again.
(() => {
  const { sum, table, sigmoid, world: solved } = window.dpoForms;
  const { shown, shownExp, short, problem, python, sentence } = window.dpoWords;
  const VIEWS = { optimum: "Best policy", preferences: "Preferences", loss: "DPO loss",
    fibre: "Rewards and policies" };
  const KEYS = ["rewards", "ref", "beta", "names", "wins", "view"];
  const MARKS = /[,;&=#%]/g; // what separates values in an address

  let made = 0;
  const make = (tag, properties = {}, ...children) => {
    const { class: kind, ...others } = properties;
    const element = Object.assign(document.createElement(tag), others);
    if (kind) element.className = kind;
    element.append(...children);
    return element;
  };
  const hidden = (words) => make("span", { class: "dpo-unseen" }, words);

  // From the attributes of the page, or an address, to a state.
  const number = (text) => (text.trim() === "" ? NaN : Number(text));
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

  // A number that can be typed, and a slider beside it.
  const dial = (words, { min, max, step, place = (x) => x, value = (x) => x }, set) => {
    const id = `dpo-dial-${++made}`, of = hidden("");
    const typed = make("input", { type: "number", step: "any", id });
    const slider = make("input", { type: "range", min, max, step });
    typed.addEventListener("input", () => set(number(typed.value), false, typed));
    slider.addEventListener("input", () => set(value(Number(slider.value)), true, slider));
    const label = make("label", { htmlFor: id }, words, of);
    const show = (now, name, position = now) => {
      if (number(typed.value) !== now) typed.value = Number(now.toPrecision(4));
      if (Number(slider.value) !== place(position)) slider.value = place(position);
      typed.removeAttribute("aria-invalid");
      of.textContent = name && ` of ${name}`;
      slider.setAttribute("aria-label", `${label.textContent}, slider`);
      slider.setAttribute("aria-valuetext", `${words} ${short(position)}`);
    };
    return { element: make("div", { class: "dpo-dial" }, label, typed, slider), show };
  };

  const views = (change) => {
    const group = `dpo-view-${++made}`;
    const radios = Object.entries(VIEWS).map(([view, words]) => {
      const radio = make("input", { type: "radio", name: group, value: view });
      radio.addEventListener("change", () => change({ view }));
      return [radio, make("label", {}, radio, ` ${words}`)];
    });
    const legend = make("legend", {}, "Look at");
    const element = make("fieldset", { class: "dpo-views" }, legend, ...radios.map(([, label]) => label));
    const draw = ({ view, reward }) => radios.forEach(([radio]) => {
      radio.checked = radio.value === view;
      radio.disabled = radio.value === "fibre" && reward.length !== 3;
    });
    return { element, draw };
  };

  // Dragging one probability scales the others, from where they were when it was taken up.
  const shared = (ref, k, share) => {
    const rest = sum(ref) - ref[k];
    return ref.map((weight, i) => {
      if (i === k) return share;
      return (1 - share) * (rest > 0 ? weight / rest : 1 / (ref.length - 1));
    });
  };

  const answer = (k, get, change) => {
    const id = `dpo-name-${++made}`, held = { ref: null };
    const name = make("input", { type: "text", id, maxLength: 24, autocomplete: "off" });
    name.addEventListener("input", () =>
      change({ names: get().names.with(k, name.value.replace(MARKS, " ") || `answer ${k + 1}`) }));
    const reward = dial("reward", { min: -5, max: 5, step: 0.05 },
      (value, _, input) => change({ reward: get().reward.with(k, value) }, input));
    const ref = dial("reference", { min: 0, max: 1, step: 0.01 }, (value, dragged, input) => {
      if (!dragged) return change({ ref: get().ref.with(k, value) }, input);
      if (get().ref !== held.made) held.ref = get().ref;
      held.made = shared(held.ref, k, value);
      change({ ref: held.made }, input);
    });
    const remove = make("button", { type: "button" }, "Remove", hidden(""));
    remove.addEventListener("click", () => change.remove(k));
    const draw = ({ names, reward: rewards, ref: weights }) => {
      if (document.activeElement !== name) name.value = names[k];
      reward.show(rewards[k], names[k]);
      ref.show(weights[k], names[k], weights[k] / sum(weights));
      remove.lastChild.textContent = ` ${names[k]}`;
      remove.disabled = names.length === 2;
    };
    const named = make("div", { class: "dpo-dial" },
      make("label", { htmlFor: id }, `answer ${k + 1}`), name);
    const element = make("div", { class: "dpo-answer" }, named, reward.element, ref.element, remove);
    return { element, draw, name };
  };

  const answers = (get, change) => {
    const list = make("div"), add = make("button", { type: "button" }, "Add an answer");
    let rows = [];
    const without = (values, k) => values.filter((_, i) => i !== k);
    const steer = Object.assign((...told) => change(...told), {
      remove: (k) => {
        const { names, reward, ref, wins } = get(), left = without(ref, k);
        change({ names: without(names, k), reward: without(reward, k),
          ref: sum(left) > 0 ? left : left.map(() => 1),
          wins: wins && without(wins, k).map((row) => without(row, k)) });
        rows[Math.min(k, rows.length - 1)].name.focus();
      },
    });
    add.addEventListener("click", () => {
      const { names, reward, ref, wins } = get(), size = names.length;
      change({ names: [...names, `answer ${size + 1}`], reward: [...reward, 0],
        ref: [...ref, sum(ref) / size],
        wins: wins && table(size + 1, (i, j) => wins[i]?.[j] ?? 0) });
      rows[size].name.focus();
    });
    const draw = (state) => {
      if (rows.length !== state.names.length) {
        rows = state.names.map((_, k) => answer(k, get, steer));
        list.replaceChildren(...rows.map((row) => row.element));
      }
      add.disabled = rows.length === 6;
      rows.forEach((row) => row.draw(state));
    };
    return { element: make("div", {}, list, add), draw };
  };

  const temperature = (change) => {
    const low = Math.log10(0.02), high = Math.log10(50);
    const made = dial("β", { min: low, max: high, step: (high - low) / 170,
      place: Math.log10, value: (place) => Number((10 ** place).toPrecision(3)) },
      (beta, _, input) => change({ beta }, input));
    return { element: made.element, draw: ({ beta }) => made.show(beta, "") };
  };

  // The same number added to every reward.
  const fibreDial = (get, change) => {
    const mean = () => sum(get().reward) / get().reward.length;
    const made = dial("mean reward (moves all along the fibre)", { min: -5, max: 5, step: 0.05 },
      (value, _, input) => {
        const by = value - mean();
        change({ reward: get().reward.map((r) => Number((r + by).toFixed(9))) }, input);
      });
    const draw = ({ view }) => {
      made.element.hidden = view !== "fibre";
      made.show(Number(mean().toFixed(9)), "");
    };
    return { element: made.element, draw };
  };

  const winTable = (get, change) => {
    const element = make("fieldset", { class: "dpo-wins" });
    let inputs = [];
    const build = (names) => {
      inputs = table(names.length, (i, j) => {
        const input = make("input", { type: "number", min: 0, step: 1, hidden: i === j });
        input.addEventListener("input", () =>
          change({ wins: get().wins.with(i, get().wins[i].with(j, number(input.value))) }, input));
        return input;
      });
      const legend = make("legend", {}, "How often the row's answer was preferred to the column's");
      element.replaceChildren(legend, grid(["wins", ...names], names, inputs));
    };
    const draw = ({ view, names, wins }) => {
      element.hidden = view !== "loss";
      if (element.hidden) return;
      if (element.dataset.names !== names.join()) build(names);
      element.dataset.names = names.join();
      inputs.forEach((row, i) => row.forEach((input, j) => {
        input.setAttribute("aria-label", `wins of ${names[i]} over ${names[j]}`);
        if (number(input.value) !== wins[i][j]) input.value = wins[i][j];
      }));
    };
    return { element, draw };
  };

  const grid = (head, names, rows) =>
    make("table", {},
      make("thead", {}, make("tr", {}, ...head.map((word) => make("th", { scope: "col" }, word)))),
      make("tbody", {}, ...names.map((name, i) =>
        make("tr", {}, make("th", { scope: "row" }, name), ...rows[i].map((cell) => make("td", {}, cell))))));

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

  const numbers = () => {
    const element = make("div", { class: "dpo-numbers" });
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
        Object.assign(said, { "DPO loss (7) here": shown(world.loss), "smallest loss": shown(world.fit.loss) });
      const list = Object.entries(said).map(([term, value]) =>
        make("div", {}, make("dt", {}, term), make("dd", {}, value)));
      const pairs = view !== "preferences" ? [] : [["preferences", "by rewards, σ(r − r′)"],
        ["policyPreferences", "by policies, (6)"]].map(([key, words]) =>
        grid([words, ...names], names, world[key].map((row) => row.map(shown))));
      element.replaceChildren(grid(["answer", ...Object.keys(found)], names, rows),
        make("dl", {}, ...list), make("div", { class: "dpo-pairs" }, ...pairs));
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

  // The page moves until its mathematics is set; only then is a figure where it will stay.
  const settled = new Promise((done) => addEventListener("load", done)).then(
    () => window.MathJax?.startup?.promise);

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
    const [choice, typed, beta, fibre, wins, seen, counted, below] = [views(change),
      answers(get, change), temperature(change), fibreDial(get, change), winTable(get, change),
      pictures(), numbers(), buttons(get, () => change(start))];
    const parts = [choice, typed, beta, fibre, wins, seen, counted, below];
    root.querySelectorAll(":scope > :not(.dpo-title, .dpo-sentence)").forEach((old) => old.remove());
    const inputs = [typed, beta, fibre, wins].map((part) => part.element);
    said.before(choice.element, seen.element);
    said.after(make("div", { class: "dpo-inputs" }, ...inputs), counted.element, below.element);
    draw();

    window.dpoAddress?.follow(({ id, values }) => {
      if ((id && id !== own) || !KEYS.some((key) => key in values)) return;
      set(read(values, state));
      if (id || values.rewards) settled.then(() => root.scrollIntoView({ block: "nearest" }));
    });
  };

  addEventListener("DOMContentLoaded", () => document.querySelectorAll(".dpo-workbench").forEach(mount));
})();
